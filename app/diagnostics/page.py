"""The report that ``python -m app diagnose`` writes: one HTML file with its figures, which loads nothing.

Its text and its layout are in ``page.html``. This module computes the numbers and draws the figures.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from app.diagnostics.probe import slope, vanishing_ratio
from app.plots.figures import as_png
from app.plots.gradient_figures import history_figure, jacobians_figure, profile_figure, spectra_figure
from cells.analysis.jacobians import Jacobians

if TYPE_CHECKING:
    from app.commands.diagnose import Diagnosis

Row = tuple[str, list[str]]  # a label, and a text for each checkpoint
LABELS = {
    "half_life": "half-life of a perturbation of {}_t, steps",
    "zero_units": "share of outputs that are 0",
    "large_units": "share of outputs beyond 0.9",
    "shut": "share of gate {} below 0.1",
    "open": "share of gate {} above 0.9",
    "spectral_norm": "spectral norm of U, block {}",
    "from_orthogonal": "||U'U - I||, block {}",
    "dc_gain": "gain of the drive for a constant input",
}


def page(found: Sequence[Diagnosis]) -> str:
    """Return the report on checkpoints, side by side."""
    environment = Environment(
        loader=PackageLoader("app.diagnostics", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    cells = list(dict.fromkeys(cell for diagnosis in found for cell in diagnosis.dynamics))
    return environment.get_template("page.html").render(
        names=[diagnosis.name for diagnosis in found],
        facts=_facts(found),
        several=len(cells) > 1,
        sections=[
            _section(cell, [diagnosis for diagnosis in found if cell in diagnosis.dynamics])
            | {"several": len(cells) > 1}
            for cell in cells
        ],
    )


def _section(cell: str, found: Sequence[Diagnosis]) -> dict[str, Any]:
    """Return what the template shows of one cell."""
    profiles = {
        diagnosis.name: {
            name.rpartition("/")[2]: norms_T
            for name, norms_T in diagnosis.measurement.norms.items()
            if name.rpartition("/")[0] == cell
        }
        for diagnosis in found
    }
    spectra = {diagnosis.name: diagnosis.dynamics[cell].spectra for diagnosis in found}
    having_history = [diagnosis for diagnosis in found if diagnosis.history and diagnosis.history.of_cell(cell)]
    measured = {diagnosis.name: diagnosis.jacobians[cell] for diagnosis in found}
    return {
        "cell": cell,
        "names": [diagnosis.name for diagnosis in found],
        "gradients": [
            (label, [_number(measure(norms["h"])) for norms in profiles.values()])
            for label, measure in (
                (
                    "vanishing ratio: mean ||dL/dh_t||, first tenth of the steps to last",
                    vanishing_ratio,
                ),
                ("slope of log10 ||dL/dh_t||, decades per step", slope),
            )
        ],
        "profile": _image(profile_figure(profiles)),
        "histories": [(diagnosis.name, _history(diagnosis, cell)) for diagnosis in having_history],
        "state": _state(cell, found),
        "spectra": _image(spectra_figure(spectra)) if any(spectra.values()) else None,
        "jacobians": _image(jacobians_figure(measured)),
        "products": [_in_words(name, jacobians) for name, jacobians in measured.items()],
    }


def _facts(found: Sequence[Diagnosis]) -> Iterable[Row]:
    yield "checkpoint", [str(diagnosis.path) for diagnosis in found]
    yield "task, data", [f"{diagnosis.task}, {diagnosis.data}" for diagnosis in found]
    yield "after epoch", [str(diagnosis.epoch) for diagnosis in found]
    yield "parameters", [f"{diagnosis.parameters:,}" for diagnosis in found]
    for cell in dict.fromkeys(cell for diagnosis in found for cell in diagnosis.cells):
        yield cell, [diagnosis.cells.get(cell, "") for diagnosis in found]
    yield "loss on the probe", [_number(diagnosis.measurement.loss) for diagnosis in found]


def _history(diagnosis: Diagnosis, cell: str) -> str:
    history = diagnosis.history
    assert history is not None
    losses = {"probe": history.probe_loss, "training": history.train_loss}
    return _image(history_figure(history.of_cell(cell), history.steps, losses))


def _state(cell: str, found: Sequence[Diagnosis]) -> list[Row]:
    numbers = [diagnosis.dynamics[cell].numbers() for diagnosis in found]
    rows = []
    for name in dict.fromkeys(name for values in numbers for name in values):
        kind, _, which = name.partition("/")
        rows.append((LABELS[kind].format(which), [_number(values.get(name)) for values in numbers]))
    return rows


def _in_words(name: str, jacobians: Jacobians) -> str:
    middle = len(jacobians.steps) // 2
    lag = jacobians.steps[-1] - jacobians.steps[middle]
    words = f"{name}: over the last {lag} steps, ||dh_T/dh_t|| = {float(jacobians.measured[middle]):.2g}"
    if jacobians.bound is not None:
        words += f" (at most {float(jacobians.bound[middle]):.2g} by the norms of U and D)"
    if jacobians.published is None or jacobians.through_drive is None:
        return f"{words}. The published product applies to a tanh network with fixed momentum only."
    return (
        f"{words}. The published product is {float(jacobians.published[middle]):.2g}. The derivative by what enters "
        f"through the drive at that step is {float(jacobians.through_drive[middle]):.2g}."
    )


def _image(figure: Figure) -> str:
    """Return a picture as the address of an embedded image."""
    return f"data:image/png;base64,{b64encode(as_png(figure)).decode()}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "longer than the sequence"
    return f"{value:.3g}"
