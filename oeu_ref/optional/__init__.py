"""Laws of what an implementation may have beside the six operations: optional operations, and whole steps of a class."""
