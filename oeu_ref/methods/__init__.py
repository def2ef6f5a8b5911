"""Unlearning methods behind one interface, OEU among them, each with its source."""
