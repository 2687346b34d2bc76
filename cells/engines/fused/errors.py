"""The exception that says why a step cannot be fused."""

from __future__ import annotations


class NotFusable(Exception):  # noqa: N818  # it is a property of the step, not a fault
    """A step that the fused engine cannot compute; the message names the operation and the reason."""


SECOND_DERIVATIVE = (
    "engine 'fused' has no second derivatives, and the gradient was asked for with create_graph=True; "
    "take engine='reference'"
)
