"""One's own network and one's own data: from them to a verdict."""
