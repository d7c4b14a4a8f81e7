"""The functions behind `heterotune ...`, one command a file; `cli.py` registers them. Heavy imports stay inside."""
