"""Pictures of gradients through time, for TensorBoard and for reports.

Shapes: N measurements, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from app.pictures import blank, styled

DECADES = 12  # below the largest norm, that a heat map tells apart
SHOWN = ("h", "x", "c")  # of the norms that were measured


@styled
def history_picture(
    norms: Mapping[str, np.ndarray], steps: Sequence[int], losses: Mapping[str, Sequence[float]]
) -> Figure:
    """Norms as colours, time up, training to the right, and under them the losses on the same axis.

    Args:
        norms: Of shape (N, T), by ``h``, ``x``, ``c``.
        steps: Optimiser steps done before each measurement.
        losses: Curves of N values, by name.
    """
    shown = [what for what in SHOWN if what in norms]
    heights = [2.0] * len(shown) + [1.4]
    ratios = {"height_ratios": heights}
    figure, axes = blank(8, 0.7 + sum(heights), len(heights), 1, layout=None, sharex=True, gridspec_kw=ratios)
    figure.subplots_adjust(left=0.09, right=1.02, top=0.96, bottom=0.07, hspace=0.25)
    edges = _edges(steps)
    for (ax,), what in zip(axes, shown, strict=False):
        norms_NT = norms[what]
        with np.errstate(divide="ignore"):
            decades_TN = np.log10(norms_NT.T)
        high = decades_TN[np.isfinite(decades_TN)].max(initial=-np.inf)
        high = high if np.isfinite(high) else 0.0
        low = max(high - DECADES, decades_TN[np.isfinite(decades_TN)].min(initial=high))
        times = np.arange(norms_NT.shape[1] + 1) + 0.5
        mesh = ax.pcolormesh(edges, times, decades_TN, vmin=low, vmax=max(high, low + 1e-3), rasterized=True)
        ax.set_facecolor("black")  # no gradient at all
        ax.set(title=f"log10 ||dL/d{what}_t||", ylabel="time step t")
        figure.colorbar(mesh, ax=ax, pad=0.01)
    (below,) = axes[-1]
    if shown:
        figure.colorbar(mesh, ax=below, pad=0.01).ax.set_visible(False)  # so that the axes are of one width
    for name, values in losses.items():
        below.plot(steps, values, label=name, marker="o" if len(steps) == 1 else None)
    found = np.array([*losses.values()])
    if np.nanmax(found) > 10 * np.nanmin(found) > 0:
        below.set_yscale("log")
    below.set(xlabel="optimiser steps", ylabel="loss", xlim=(edges[0], edges[-1]))
    below.legend()
    return figure


@styled
def profile_picture(profiles: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """||dL/dh_t|| over the steps of time on a logarithmic scale, and those of x and c beside it.

    Args:
        profiles: Norms of shape (T,) by ``h``, ``x``, ``c``; one line in each panel for each name.
    """
    shown = [what for what in SHOWN if any(what in norms for norms in profiles.values())]
    figure, ((*axes,),) = blank(3.6 * len(shown), 3, 1, len(shown))
    for ax, what in zip(axes, shown, strict=True):
        for name, norms in profiles.items():
            norms_T = norms.get(what, np.zeros(0))
            ax.plot(np.arange(1, len(norms_T) + 1), np.where(norms_T > 0, norms_T, np.nan), label=name)
        ax.set(title=f"||dL/d{what}_t||", xlabel="time step t", yscale="log")
    axes[0].legend()
    return figure


def _edges(steps: Sequence[int]) -> np.ndarray:
    """Where the columns of a heat map meet: half-way between two measurements."""
    middles = (np.asarray(steps[1:]) + np.asarray(steps[:-1])) / 2
    before = steps[0] - (middles[0] - steps[0] if len(middles) else 0.5)
    after = steps[-1] + (steps[-1] - middles[-1] if len(middles) else 0.5)
    return np.array([before, *middles, after])
