"""Local training of a chunk of clients, with a slow reference beside it."""
