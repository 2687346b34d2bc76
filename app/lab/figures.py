"""The figures of a report, as SVG. matplotlib's figures without its global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from app.lab.gathering import ArmResults, Gathered, finite, tuning_values
from app.lab.space import Dimension, Value
from app.lab.statistics import budget_curve, mean_interval
from app.lab.tables import number, short

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "report",  # the same study gives the same file
}
COLORS = tuple(mpl.colormaps["tab10"].colors)  # type: ignore[attr-defined]
COLUMNS = 3  # heat maps beside one another
DECADES = 8  # range of the gradients through time below the largest norm


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    title: str
    caption: str
    svg: str


def pictures(gathered: Gathered) -> list[Picture]:
    """Return every figure that the study has data for."""
    with mpl.rc_context(STYLE):
        drawn = [
            _results(gathered),
            _curves(gathered),
            _budget(gathered),
            *(_maps(gathered, results) for results in gathered.arms),
            _sensitivity(gathered),
            _gradients(gathered),
        ]
    return [picture for picture in drawn if picture is not None]


def _results(gathered: Gathered) -> Picture | None:
    metric = gathered.outcome.name
    shown = [results for results in gathered.arms if results.reported("test", metric)]
    if not shown:
        return None
    figure = Figure(figsize=(8, 0.6 + 0.38 * len(shown)))
    axes = figure.subplots()
    for place, results in enumerate(shown):
        values = list(results.reported("test", metric).values())
        color = _color(gathered, results)
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.4, ms=5, mec="none")
        mean = float(np.mean(values))
        if interval := mean_interval(values):
            axes.plot(interval, [place, place], color=color, lw=2)
        axes.plot([mean], [place], "|", color=color, ms=16, mew=2.5)
    axes.set_yticks(range(len(shown)), [results.label for results in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"test {metric}")
    caption = "One dot for each reporting seed, the mean, and its 95 % interval. Controls have the color of their cell."
    return Picture("Results by seed", caption, _svg(figure))


def _curves(gathered: Gathered) -> Picture | None:
    metric = gathered.choose_by.name
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    shown = False
    for results in gathered.arms:
        runs = [
            [row[metric] for row in run.curves] for run in results.reporting if run.status == "complete" and run.curves
        ]
        if not runs or any(not isfinite(value) for run in runs for value in run):
            continue
        length = min(map(len, runs))
        values_ST = np.array([run[:length] for run in runs])
        epochs = range(1, length + 1)
        style = _style(gathered, results)
        axes.plot(epochs, values_ST.mean(0), label=results.label, **style)
        if len(runs) > 1:
            bands = [mean_interval(column) for column in values_ST.T.tolist()]
            low, high = zip(*((band.low, band.high) for band in bands if band), strict=True)
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.12, lw=0)
        shown = True
    if not shown:
        return None
    axes.set_xlabel("validation number (epochs, unless the validation interval was changed)")
    axes.set_ylabel(f"validation {metric}")
    _legend(axes)
    caption = "Mean over the reporting seeds with its 95 % interval at each validation."
    return Picture("Learning curves", caption, _svg(figure))


def _budget(gathered: Gathered) -> Picture | None:
    if gathered.study.sampler not in ("random", "independent"):
        return None
    minimize = gathered.choose_by.mode == "min"
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    shown = False
    for results in gathered.arms:
        points = tuning_values(results, gathered.choose_by)
        known = [value for _, value in finite(points)]
        if len(points) < 2 or len(set(known)) < 2:
            continue
        curve = budget_curve([value for _, value in points], minimize)
        low, high = (np.clip(side, min(known), max(known)) for side in (curve.low, curve.high))
        style = _style(gathered, results)
        axes.plot(curve.trials, np.clip(curve.middle, min(known), max(known)), label=results.label, **style)
        if results.arm.parent is None:
            axes.fill_between(curve.trials, low, high, color=style["color"], alpha=0.1, lw=0)
        shown = True
    if not shown:
        return None
    axes.set_xlabel("trials")
    axes.set_ylabel(f"best validation {gathered.choose_by.name} (median)")
    _legend(axes)
    caption = (
        "Best result of that many random trials: median, and for cells that are no controls the 95 % confidence band "
        "of Lourie et al. (arXiv 2311.09480), cut at the best and worst observed value. The band is exact for "
        "independent draws"
        + (
            "."
            if gathered.study.sampler == "independent"
            else "; quasi-random draws cover the space more evenly, so it is approximate here."
        )
    )
    return Picture("Best result against tuning budget", caption, _svg(figure))


def _maps(gathered: Gathered, results: ArmResults) -> Picture | None:
    """Draw a map of the validation metric for each pair of tuned hyperparameters."""
    points = tuning_values(results, gathered.choose_by)
    pairs = list(combinations([dimension for dimension in results.arm.tuned if dimension.numeric], 2))
    if not pairs or len(finite(points)) < 3:
        return None
    rows = -(-len(pairs) // COLUMNS)
    columns = min(COLUMNS, len(pairs))
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (first, second) in zip(grid.flat, pairs, strict=False):
        draw = _heat_map if gathered.study.sampler == "grid" else _scatter
        drawn = draw(axes, points, first, second, gathered.choose_by.mode == "min")
        figure.colorbar(drawn, ax=axes)
        axes.set_xlabel(short(first.name))
        axes.set_ylabel(short(second.name))
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    caption = (
        f"Validation {gathered.choose_by.name}; dark is good. A cross is a point that failed or diverged. "
        "Where several points lie in one field, the best is shown."
    )
    return Picture(f"Hyperparameters of {results.label}", caption, _svg(figure))


def _heat_map(
    axes: Axes,
    points: Sequence[tuple[dict[str, Value], float]],
    first: Dimension,
    second: Dimension,
    minimize: bool,
) -> mpl.cm.ScalarMappable:
    across, up = sorted(first.values, key=float), sorted(second.values, key=float)  # type: ignore[arg-type]
    best: Callable[..., float] = np.fmin if minimize else np.fmax
    field = np.full((len(up), len(across)), np.nan)
    for values, value in points:
        if first.name in values and second.name in values and isfinite(value):
            place = up.index(values[second.name]), across.index(values[first.name])
            field[place] = best(field[place], value)
    image = axes.imshow(field, origin="lower", aspect="auto", cmap=_colormap(minimize))
    middle = (np.nanmin(field) + np.nanmax(field)) / 2
    for row, column in np.argwhere(~np.isnan(field)):
        value = field[row, column]
        dark = (value < middle) == minimize  # dark is good
        axes.text(column, row, number(value, 2), ha="center", va="center", color="white" if dark else "black")
    tried = [(values.get(first.name), values.get(second.name)) for values, _ in points]
    for row, column in np.argwhere(np.isnan(field)):
        if (across[column], up[row]) in tried:
            axes.plot([column], [row], "x", color="tab:red", ms=9, mew=2)
    axes.set_xticks(range(len(across)), [str(value) for value in across])
    axes.set_yticks(range(len(up)), [str(value) for value in up])
    axes.grid(visible=False)
    return image


def _scatter(
    axes: Axes,
    points: Sequence[tuple[dict[str, Value], float]],
    first: Dimension,
    second: Dimension,
    minimize: bool,
) -> mpl.cm.ScalarMappable:
    known = [(v[first.name], v[second.name], value) for v, value in points if first.name in v and second.name in v]
    good = [item for item in known if isfinite(item[2])]
    x, y, value = zip(*good, strict=True)
    drawn = axes.scatter(x, y, c=value, cmap=_colormap(minimize), s=42, edgecolors="0.4", linewidths=0.5)
    if bad := [item[:2] for item in known if not isfinite(item[2])]:
        axes.plot(*zip(*bad, strict=True), "x", color="tab:red", ms=8, mew=2)
    for dimension, scale, axis in ((first, axes.set_xscale, axes.xaxis), (second, axes.set_yscale, axes.yaxis)):
        if dimension.kind == "log_uniform":
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # ranges are often less than a decade
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    return drawn


def _sensitivity(gathered: Gathered) -> Picture | None:
    shown = [results for results in gathered.arms if finite(tuning_values(results, gathered.choose_by))]
    if not shown:
        return None
    figure = Figure(figsize=(8, 0.6 + 0.38 * len(shown)))
    axes = figure.subplots()
    for place, results in enumerate(shown):
        values = [value for _, value in finite(tuning_values(results, gathered.choose_by))]
        color = _color(gathered, results)
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.4, ms=5, mec="none")
        axes.plot([np.median(values)], [place], "|", color=color, ms=16, mew=2.5)
    axes.set_yticks(range(len(shown)), [results.label for results in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"validation {gathered.choose_by.name}")
    caption = "One dot for each complete tuning trial, and the median. A narrow row means a cell that is easy to tune."
    return Picture("Sensitivity to hyperparameters", caption, _svg(figure))


def _gradients(gathered: Gathered) -> Picture | None:
    """Draw the gradients through time of the first reporting run of each arm, with the loss below."""
    found = {}
    for results in gathered.arms:
        files = [run.path / "gradients.npz" for run in results.reporting[:1]]
        if files and files[0].is_file():
            with np.load(files[0]) as arrays:
                cell = next(name for name in arrays.files if name.endswith("/h"))
                with np.errstate(divide="ignore"):
                    found[results.label] = arrays["steps"], np.log10(arrays[cell]), arrays["probe_loss"]
    if not found:
        return None
    high = max(decades_NT.max() for _, decades_NT, _ in found.values())
    losses = np.concatenate([loss_N for *_, loss_N in found.values()])
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    heights = {"height_ratios": [2.0, 1.0] * rows}
    figure = Figure(figsize=(3.4 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, gridspec_kw=heights)
    for place, (label, (steps, decades_NT, loss_N)) in enumerate(found.items()):
        map_, curve = grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        times = np.arange(1, decades_NT.shape[1] + 1)
        mesh = map_.pcolormesh(
            steps, times, decades_NT.T, vmin=high - DECADES, vmax=high, shading="nearest", rasterized=True
        )
        map_.set_facecolor("black")  # where the gradient is 0
        map_.set_title("\n".join(wrap(label, 34)))
        map_.grid(visible=False)
        curve.plot(steps, loss_N, color=_color(gathered, gathered.arm(label)))
        curve.set_yscale("log")
        curve.set_ylim(np.nanmin(losses) / 1.2, np.nanmax(losses) * 1.2)
        curve.set_xlabel("optimizer steps")
        curve.tick_params(labelbottom=True)
        if place % columns == 0:
            map_.set_ylabel("time step t")
            curve.set_ylabel("loss")
    for place in range(len(found), rows * columns):
        for axes in grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]:
            axes.set_axis_off()
    figure.colorbar(mesh, ax=grid, label="log10 ||dL/dh_t||", shrink=0.6)
    caption = (
        "Norm of the gradient with respect to the hidden state at each time step, on the same validation sequences, "
        "and their loss, during the training of the first reporting seed. Black is 0, or more than "
        f"{DECADES} decades below the largest norm."
    )
    return Picture("Gradients through time", caption, _svg(figure))


def _colormap(minimize: bool) -> str:
    return "viridis" if minimize else "viridis_r"


def _color(gathered: Gathered, results: ArmResults) -> tuple[float, ...]:
    parents = [other.label for other in gathered.arms if other.arm.parent is None]
    color: tuple[float, ...] = COLORS[parents.index(results.arm.parent or results.label) % len(COLORS)]
    return color


def _style(gathered: Gathered, results: ArmResults) -> dict[str, Any]:
    siblings = [other.label for other in gathered.arms if other.arm.parent == results.arm.parent]
    dashes = ("--", ":", "-.", (0, (1, 3)))
    line = dashes[siblings.index(results.label) % len(dashes)] if results.arm.parent else "-"
    return {"color": _color(gathered, results), "linestyle": line, "linewidth": 1.0 if results.arm.parent else 1.8}


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()
