"""Test vectors: the contract's cases as JSON for programs in any language, and what became of their answers."""
