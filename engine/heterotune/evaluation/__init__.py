"""How good the fleet's models are on held-out rows: loss, answers, per client, and with a client's own adapter."""
