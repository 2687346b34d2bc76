"""What a cell does: recorded states, gradients through time, gains, FLOPs."""
