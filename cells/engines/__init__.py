"""Engines: the ways to compute a sequence, each with the numbers of the reference."""
