"""The plots of a run: each is a figure, a sentence for those who cannot see it, and its numbers."""
