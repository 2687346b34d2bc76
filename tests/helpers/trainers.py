"""Options of a Trainer that writes and prints nothing."""

from __future__ import annotations

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
