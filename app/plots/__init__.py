"""Figures for TensorBoard and for pages."""
