"""The page that ``python -m app diagnose`` writes: one file of HTML, pictures included, nothing loaded from outside."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from app.diagnostics.probe import slope, vanishing_ratio
from app.plots.figures import as_png
from app.plots.gradient_figures import history_figure, jacobians_figure, profile_figure, spectra_figure
from cells.analysis.jacobians import Jacobians

if TYPE_CHECKING:
    from app.commands.diagnose import Diagnosis

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
p, li { max-width: 50rem; } code { font-size: 0.9em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td { font-variant-numeric: tabular-nums; } thead th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; } .row { display: flex; flex-wrap: wrap; gap: 1rem; }
.row figure { flex: 1 1 30rem; }
figure { margin: 0.5rem 0; } figcaption { font-size: 0.9rem; color: #444; }
"""
WORDS = {
    "half_life": "half-life of a perturbation of {}_t, steps",
    "zero_units": "share of outputs that are 0",
    "large_units": "share of outputs beyond 0.9",
    "shut": "share of gate {} below 0.1",
    "open": "share of gate {} above 0.9",
    "spectral_norm": "spectral norm of U, block {}",
    "from_orthogonal": "||U'U - I||, block {}",
    "dc_gain": "gain of the drive for a constant input",
}
HALF_LIFE = (
    "The half-life is the number of steps after which a small perturbation, all else held fixed, stays below "
    "half of its size: the median over sequences and start times."
)
GRADIENTS = (
    "The norm of the gradient of the loss by the output of each step, all that depends on it taken into account, by "
    "the input, and by the cell state where there is one; on the first sequences of the validation data, in float64. A "
    "gradient that vanishes falls to the left."
)
THEORY = """
<p>How much of h_t is left at the end of the sequence is the product of the Jacobians of the steps, dh_T/dh_t, the other
parts of the state held fixed. Below is its spectral norm, measured on one sequence; an orthogonal Jacobian has 1.</p>
<p>The momentum cell is h_t = sigma(v_t + U h_{t-1}), v_t = mu v_{t-1} + s (W x_t + b). <b>v does not depend on h</b>,
so dh_T/dh_t = D_T U .. D_{t+1} U with D_k = diag(sigma'): mu is not in it, whatever its value. This product is what
back-propagation multiplies by.</p>
<p>The analysis of Nguyen et al. (NeurIPS 2020, on vanishing gradients) solves for
v_k = sigma<sup>-1</sup>(h_k) - U h_{k-1}, writes h_{k+1} as a function of h_k and h_{k-1}, and multiplies its
derivatives by h_k alone: the product of D_{k+1} (U + mu Sigma_k) with Sigma_k = diag((sigma<sup>-1</sup>)'(h_k)),
called the published product below. Two things are to be known of it. To move h_k while h_{k-1} stays is to move v_k, so
its mu is the memory of the <em>drive</em>, of what came in at that step, not of h. And h_{k-1} is not constant in a
product over steps: the derivative that does not leave this out is the curve &ldquo;what enters by the drive at
t&rdquo;.</p>
<p>What mu does change is the gradient by the input: dL/dx_t and dL/dW are sums over lags j, weighted by mu<sup>j</sup>,
of what reaches step t + j, so an input acts for some 1/(1 - mu) steps, and a constant one is multiplied by s/(1 - mu).
Only the Nesterov cells have their momentum inside dh_T/dh_t.</p>
"""


def page(found: Sequence[Diagnosis]) -> str:
    """The page about checkpoints, side by side."""
    names = ", ".join(diagnosis.name for diagnosis in found)
    cells = list(dict.fromkeys(cell for diagnosis in found for cell in diagnosis.dynamics))
    sections = [
        f"<h1>What the cells do: {escape(names)}</h1>",
        _table(
            ["", *(diagnosis.name for diagnosis in found)],
            [[label, *values] for label, values in _facts(found)],
        ),
    ]
    for cell in cells:
        of = f" of {cell}" if len(cells) > 1 else ""
        having = [diagnosis for diagnosis in found if cell in diagnosis.dynamics]
        sections += _gradients(cell, of, having) + _state(cell, of, having) + _jacobians(cell, of, having)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(names)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body>\n{''.join(section + chr(10) for section in sections)}</body>\n</html>\n"
    )


def _facts(found: Sequence[Diagnosis]) -> Iterable[tuple[str, list[str]]]:
    yield "checkpoint", [str(diagnosis.path) for diagnosis in found]
    yield "task, data", [f"{diagnosis.task}, {diagnosis.data}" for diagnosis in found]
    yield "after epoch", [str(diagnosis.epoch) for diagnosis in found]
    yield "parameters", [f"{diagnosis.parameters:,}" for diagnosis in found]
    for cell in dict.fromkeys(cell for diagnosis in found for cell in diagnosis.cells):
        yield cell, [diagnosis.cells.get(cell, "") for diagnosis in found]
    yield "loss on the probe", [_number(diagnosis.measurement.loss) for diagnosis in found]


def _gradients(cell: str, of: str, found: Sequence[Diagnosis]) -> list[str]:
    profiles = {
        diagnosis.name: {
            name.rpartition("/")[2]: norms_T
            for name, norms_T in diagnosis.measurement.norms.items()
            if name.rpartition("/")[0] == cell
        }
        for diagnosis in found
    }
    rows = [
        [label, *(_number(measure(norms["h"])) for norms in profiles.values())]
        for label, measure in (
            ("vanishing ratio: ||dL/dh_t||, first tenth of the steps to last", vanishing_ratio),
            ("slope of log10 ||dL/dh_t||, decades a step", slope),
        )
    ]
    histories = [
        _figure(
            history_figure(
                diagnosis.history.of_cell(cell),
                diagnosis.history.steps,
                {"probe": diagnosis.history.probe_loss, "training": diagnosis.history.train_loss},
            ),
            f"{diagnosis.name}: the training",
        )
        for diagnosis in found
        if diagnosis.history is not None and diagnosis.history.of_cell(cell)
    ]
    return [
        f"<h2>Gradients through time{escape(of)}</h2>",
        f"<p>{GRADIENTS}</p>",
        _table(["", *profiles], rows),
        _figure(profile_figure(profiles), "Gradients through time of the trained models"),
        f'<div class="row">{"".join(histories)}</div>' if histories else "",
    ]


def _state(cell: str, of: str, found: Sequence[Diagnosis]) -> list[str]:
    numbers = {diagnosis.name: diagnosis.dynamics[cell].numbers() for diagnosis in found}
    every = dict.fromkeys(name for values in numbers.values() for name in values)
    rows = []
    for name in every:
        kind, _, which = name.partition("/")
        rows.append([WORDS[kind].format(which), *(_number(values.get(name)) for values in numbers.values())])
    spectra = {diagnosis.name: diagnosis.dynamics[cell].spectra for diagnosis in found}
    return [
        f"<h2>The state in numbers{escape(of)}</h2>",
        f"<p>{HALF_LIFE}</p>",
        _table(["", *numbers], rows),
        _figure(spectra_figure(spectra), "Singular values of U") if any(spectra.values()) else "",
    ]


def _jacobians(cell: str, of: str, found: Sequence[Diagnosis]) -> list[str]:
    shown = {diagnosis.name: diagnosis.jacobians[cell] for diagnosis in found}
    return [
        f"<h2>What is left of h_t at the end{escape(of)}</h2>",
        THEORY,
        _figure(jacobians_figure(shown), "Spectral norms over the steps"),
        "<ul>",
        *(f"<li>{escape(_in_words(name, jacobians))}</li>" for name, jacobians in shown.items()),
        "</ul>",
    ]


def _in_words(name: str, jacobians: Jacobians) -> str:
    middle = len(jacobians.steps) // 2
    lag = jacobians.steps[-1] - jacobians.steps[middle]
    words = (
        f"{name}: of h_t {lag} steps before the end, ||dh_T/dh_t|| = {float(jacobians.measured[middle]):.2g} is left"
    )
    if jacobians.bound is not None:
        words += f" (not above {float(jacobians.bound[middle]):.2g} by the norms of U and D)"
    if jacobians.published is None or jacobians.through_drive is None:
        return f"{words}. The published product is of a tanh network with fixed momentum, so there is none here."
    return (
        f"{words}. The published product says {float(jacobians.published[middle]):.2g}; what enters by the drive at "
        f"that step arrives with {float(jacobians.through_drive[middle]):.2g}."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in header)
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for label, *values in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(figure: Figure, words: str) -> str:
    data = b64encode(as_png(figure)).decode()
    text = escape(words)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _number(value: float | None) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if math.isinf(value):
        return "longer than the sequence"
    return f"{value:.3g}"
