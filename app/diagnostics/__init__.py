"""Measurements on trained models, and the report page."""
