"""How updates are combined: exact sums over clients and CMGA across model types."""
