"""heterotune: federated fine-tuning of heterogeneous LLaMA fleets, simulated on HPC clusters."""

__version__ = "0.1.0"
