"""Starting the ranks of a run, and knowing which launcher started this process."""
