"""Privacy for research: differential privacy of clients, and a simulation of secure aggregation."""
