"""The virtual clock: how long clients take, whose updates a round waits for, and what is on its way meanwhile."""
