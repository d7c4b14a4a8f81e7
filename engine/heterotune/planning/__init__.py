"""What a run will need, before it is submitted: memory, bytes, time, by arithmetic. Imports no torch."""
