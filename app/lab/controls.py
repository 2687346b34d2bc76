"""Controls: the same cell with one property removed, so that a simpler explanation of its results can be tested.

A control is tuned with the points of its parent. Each point is changed by the control's rule, so both have the same
budget and the same freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cells import Cell

Arguments = dict[str, Any]
DELTA_WITHOUT_AMPLIFICATION = 1.0  # a silent input is multiplied by step_size, not by step_size / sqrt(delta)


@dataclass(frozen=True)
class Control:
    """A rule that turns the arguments of a cell into those of its control.

    Attributes:
        key: Short name, stored in files.
        title: What tables call it, after the name of the cell.
        question: The simpler explanation that the control tests.
        applies: Whether a cell with these arguments has this control; the arguments include defaults.
        change: The arguments that differ from the parent's.
        removes: Hyperparameters of the parent that the control does not have.
    """

    key: str
    title: str
    question: str
    applies: Callable[[type[Cell], Arguments], bool]
    change: Callable[[type[Cell], Arguments], Arguments]
    removes: frozenset[str]


def controls_of(cell: type[Cell], arguments: Mapping[str, Any], tuned: frozenset[str]) -> list[Control]:
    """Return the controls of a cell.

    Args:
        cell: The class.
        arguments: Its fixed arguments.
        tuned: Names of the arguments that are tuned.
    """
    every = with_defaults(cell, arguments)
    for name in tuned:  # a tuned momentum counts as momentum whatever the default is
        every[name] = every.get(name) or 0.5
    return [control for control in CONTROLS if control.applies(cell, every)]


def control_by_key(key: str) -> Control:
    """Return the control that a file names."""
    return next(control for control in CONTROLS if control.key == key)


def with_defaults(cell: type[Cell], arguments: Mapping[str, Any]) -> Arguments:
    """Return the arguments of a cell including its defaults."""
    from cells.registry import own_parameters

    return {name: parameter.default for name, parameter in own_parameters(cell).items()} | dict(arguments)


def _is_momentum(cell: type[Cell], arguments: Arguments) -> bool:
    return bool(arguments.get("momentum")) and "step_size" in arguments and "beta" not in arguments


def _is_restarted(cell: type[Cell], arguments: Arguments) -> bool:
    return arguments.get("restart_period", 1) > 1 and "step_size" in arguments


def _is_adaptive(cell: type[Cell], arguments: Arguments) -> bool:
    return {"beta", "delta", "step_size"} <= arguments.keys()


def _fixed(arguments: Arguments, **changed: Any) -> Arguments:
    """Return ``changed``, and that nothing of the drive is learned: a learned momentum cannot be 0."""
    return changed | ({"learn": "none"} if "learn" in arguments else {})


def _has_set_forget_bias(cell: type[Cell], arguments: Arguments) -> bool:
    set_by_user = arguments.get("forget_bias") is not None or arguments.get("init") == "published"
    return _is_momentum(cell, arguments) and "forget_bias" in arguments and set_by_user


def _same_forget_bias(cell: type[Cell], arguments: Arguments) -> Arguments:
    """Return the bias that, in both bias vectors and without momentum, gives the parent's forget bias at rest."""
    from cells import gain_report

    at_rest = gain_report(cell(1, 2, **arguments)).forget_bias
    assert at_rest is not None  # _has_set_forget_bias saw to it
    return _fixed(arguments, momentum=0.0, step_size=1.0, forget_bias=at_rest / 2)


CONTROLS = (
    Control(
        key="no_momentum",
        title="no momentum",
        question="A tuned step size alone explains the result: momentum is 0, and the step size keeps its range.",
        applies=_is_momentum,
        change=lambda _, arguments: _fixed(arguments, momentum=0.0),
        removes=frozenset({"momentum"}),
    ),
    Control(
        key="same_gain",
        title="same gain, no momentum",
        question="The amplification of a constant input explains the result: momentum is 0, and the step size is "
        "step_size / (1 - momentum).",
        applies=_is_momentum,
        change=lambda _, arguments: _fixed(
            arguments, momentum=0.0, step_size=arguments["step_size"] / (1 - arguments["momentum"])
        ),
        removes=frozenset({"momentum"}),
    ),
    Control(
        key="same_forget_bias",
        title="same forget bias, no momentum",
        question="The larger forget bias at rest, b_hh + b_ih step_size / (1 - momentum), explains the result: "
        "momentum is 0, the step size is 1, and the forget bias is that value.",
        applies=_has_set_forget_bias,
        change=_same_forget_bias,
        removes=frozenset({"momentum", "step_size"}),
    ),
    Control(
        key="no_restarted_momentum",
        title="no momentum",
        question="A tuned step size alone explains the result: with a restart at every step the momentum is always 0.",
        applies=_is_restarted,
        change=lambda _, arguments: _fixed(arguments, restart_period=1),
        removes=frozenset({"restart_period"}),
    ),
    Control(
        key="normalizer_only",
        title="normalizer only",
        question="The normalization alone explains the result: momentum is 0, the average of squares stays.",
        applies=lambda cell, arguments: _is_adaptive(cell, arguments) and bool(arguments.get("momentum")),
        change=lambda _, arguments: _fixed(arguments, momentum=0.0),
        removes=frozenset({"momentum"}),
    ),
    Control(
        key="delta",
        title=f"delta {DELTA_WITHOUT_AMPLIFICATION:g}",
        question="The amplification of silent inputs by step_size / sqrt(delta) explains the result: delta is "
        f"{DELTA_WITHOUT_AMPLIFICATION:g}, so a silent input is multiplied by the step size only.",
        applies=lambda cell, arguments: _is_adaptive(cell, arguments) and arguments["delta"] < 0.5,
        change=lambda _, arguments: {"delta": DELTA_WITHOUT_AMPLIFICATION},
        removes=frozenset({"delta"}),
    ),
    Control(
        key="bias_correction",
        title="bias correction",
        question="The slow start of the averages explains the result: they are corrected for their start at 0.",
        applies=lambda cell, arguments: _is_adaptive(cell, arguments) and arguments.get("bias_correction") is False,
        change=lambda _, arguments: {"bias_correction": True},
        removes=frozenset(),
    ),
)
