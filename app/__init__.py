"""The training application: tasks, command line, run directories."""
