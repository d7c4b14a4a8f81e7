"""Take a model type's adapter out of a run folder: as a stock PEFT adapter, or merged into a whole model."""
