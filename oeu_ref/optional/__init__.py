"""Laws of what an implementation may have beside the six operations: other operations, and a class's whole steps."""
