"""Time series of several channels and different lengths."""
