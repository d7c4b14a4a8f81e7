"""What each rank needs: peak memory by phase, seconds by phase."""
