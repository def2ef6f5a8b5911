"""Other people's implementations, where pip has installed them: our adapters of them, and what is expected of each."""
