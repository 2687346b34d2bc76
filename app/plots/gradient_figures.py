"""Pictures of gradients through time, for TensorBoard and for reports.

Shapes: N measurements, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from app.plots.figures import blank, styled
from cells.analysis.jacobians import Jacobians

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


@styled
def jacobians_picture(found: Mapping[str, Jacobians]) -> Figure:
    """||dh_T/dh_t|| over t on a logarithmic scale, a panel for each name; what theory says of it beside it."""
    figure, axes = blank(max(6.0, 4.2 * len(found)), 3.6, 1, len(found), sharey=True)
    for ax, (name, jacobians) in zip(axes[0], found.items(), strict=True):
        curves = {
            "dh_T/dh_t, measured": (jacobians.measured, "-"),
            "its upper bound": (jacobians.bound, ":"),
            "published product": (jacobians.published, "--"),
            "what enters by the drive at t": (jacobians.through_drive, "-."),
        }
        for label, (norms, line) in curves.items():
            if norms is not None:
                values = norms.cpu().numpy()
                ax.plot(jacobians.steps, np.where(values > 0, values, np.nan), line, label=label)
        ax.set(title=name, xlabel="time step t", yscale="log")
    axes[0, 0].set_ylabel("spectral norm")
    widest = max(axes[0], key=lambda ax: len(ax.lines))
    widest.legend()
    return figure


@styled
def spectra_picture(found: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Singular values of U, largest first, a panel for each gate block, a line for each name."""
    blocks = list(dict.fromkeys(block for spectra in found.values() for block in spectra))
    figure, axes = blank(max(4.0, 2.6 * len(blocks)), 2.8, 1, len(blocks), sharey=True)
    for ax, block in zip(axes[0], blocks, strict=True):
        for name, spectra in found.items():
            values = spectra[block].cpu().numpy() if block in spectra else np.zeros(0)
            ax.plot(np.arange(1, len(values) + 1), values, label=name)
        ax.axhline(1, color="grey", linewidth=0.8, linestyle=":")
        ax.set(title=f"block {block}", xlabel="singular value")
    axes[0, 0].legend()
    return figure


def _edges(steps: Sequence[int]) -> np.ndarray:
    """Where the columns of a heat map meet: half-way between two measurements."""
    middles = (np.asarray(steps[1:]) + np.asarray(steps[:-1])) / 2
    before = steps[0] - (middles[0] - steps[0] if len(middles) else 0.5)
    after = steps[-1] + (steps[-1] - middles[-1] if len(middles) else 0.5)
    return np.array([before, *middles, after])
