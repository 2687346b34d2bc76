"""Figures of gradients through time, for TensorBoard and reports.

Shapes: N measurements, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from app.plots.figures import blank, styled
from cells.analysis.jacobians import Jacobians

DECADES = 12  # range of a heat map below the largest norm
SHOWN = ("h", "x", "c")  # states whose norms are shown


@styled
def history_figure(
    norms: Mapping[str, np.ndarray], steps: Sequence[int], losses: Mapping[str, Sequence[float]]
) -> Figure:
    """Show norms as heat maps over optimizer steps and time steps, and losses over optimizer steps below them.

    Args:
        norms: Norms of shape (N, T), by ``h``, ``x``, ``c``.
        steps: Number of optimizer steps before each measurement.
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
        ax.set_facecolor("black")  # where the gradient is 0
        ax.set(title=f"log10 ||dL/d{what}_t||", ylabel="time step t")
        figure.colorbar(mesh, ax=ax, pad=0.01)
    (below,) = axes[-1]
    if shown:
        figure.colorbar(mesh, ax=below, pad=0.01).ax.set_visible(False)  # makes all axes equally wide
    for name, values in losses.items():
        below.plot(steps, values, label=name, marker="o" if len(steps) == 1 else None)
    found = np.array([*losses.values()])
    if np.nanmax(found) > 10 * np.nanmin(found) > 0:
        below.set_yscale("log")
    below.set(xlabel="optimizer steps", ylabel="loss", xlim=(edges[0], edges[-1]))
    below.legend()
    return figure


@styled
def profile_figure(profiles: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Plot ||dL/dh_t||, ||dL/dx_t|| and ||dL/dc_t|| over t on a logarithmic scale, one panel each.

    Args:
        profiles: Norms of shape (T,) by ``h``, ``x``, ``c``, for each line by its name.
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
def jacobians_figure(found: Mapping[str, Jacobians]) -> Figure:
    """Plot ||dh_T/dh_t|| over t on a logarithmic scale with its theoretical values, one panel per name."""
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
def spectra_figure(found: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Plot the singular values of U, largest first: one panel per gate block, one line per name."""
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
    """Return the boundaries of the columns of a heat map: half-way between two measurements."""
    middles = (np.asarray(steps[1:]) + np.asarray(steps[:-1])) / 2
    before = steps[0] - (middles[0] - steps[0] if len(middles) else 0.5)
    after = steps[-1] + (steps[-1] - middles[-1] if len(middles) else 0.5)
    return np.array([before, *middles, after])
