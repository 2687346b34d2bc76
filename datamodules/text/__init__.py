"""Texts as streams of tokens."""
