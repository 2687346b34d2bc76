"""The training application: ``python -m app``."""

from importlib import import_module
from typing import Any

__all__ = ["NTASGD", "Curves"]
MODULES = {"NTASGD": "app.optim.nt_asgd", "Curves": "app.lab.curves"}


def __getattr__(name: str) -> Any:
    """Import public classes when they are used, so that ``import app`` stays cheap."""
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'app' has no attribute {name!r}")
