"""The training application: ``python -m app``."""

from typing import Any

__all__ = ["NTASGD"]


def __getattr__(name: str) -> Any:
    """Import public classes when they are used, so that ``import app`` stays cheap."""
    if name == "NTASGD":
        from app.optim.nt_asgd import NTASGD

        return NTASGD
    raise AttributeError(f"module 'app' has no attribute {name!r}")
