"""Synthetic problems, generated from random numbers."""
