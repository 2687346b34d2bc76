"""Run directories: files, checkpoints, configuration, results."""
