"""Texts as streams of words."""
