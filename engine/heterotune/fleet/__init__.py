"""Who takes part: model types, clients, the cohort of a round, chunks, and which MPI rank trains which chunk."""
