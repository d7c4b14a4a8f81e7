"""How a run is doing, read from its folder alone: nothing is written there and no rank is asked."""
