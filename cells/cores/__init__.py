"""Recurrences that a drive can be put in front of."""
