"""What is written and drawn for people and machines, from JSON alone."""
