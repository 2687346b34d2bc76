"""Texts as streams of words or characters."""
