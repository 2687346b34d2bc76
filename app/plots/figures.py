"""Figures of predictions, and the style of all figures.

The functions return matplotlib figures and do not use matplotlib's global state. A new kind of figure is a function
with the decorator :func:`styled` that draws on :func:`blank`. :func:`as_array` and :func:`as_png` render a figure.

Shapes: B examples, C classes, S side of an image, T steps or frames, F targets of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.prop_cycle": "cycler('color', ['0072B2', 'D55E00', '009E73', 'CC79A7', '56B4E9', 'E69F00', '000000'])",
    "image.cmap": "viridis",  # like the line colors (Okabe and Ito), distinguishable with color blindness
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
RIGHT, WRONG = "#007800", "#c80000"
COLUMNS = 8  # examples per row

styled = rc_context(STYLE)  # decorator: applies the style only while the function runs


def blank(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    layout: Literal["constrained"] | None = "constrained",
    **subplots: Any,
) -> tuple[Figure, np.ndarray]:
    """Return a new figure and its axes, an array of shape (rows, columns). Call it in a :data:`styled` function.

    Args:
        width: Width in units of 100 pixels.
        height: Height in units of 100 pixels.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        layout: None leaves the margins to the caller. ``constrained`` doubles the time to draw the figure.
        **subplots: Further arguments of matplotlib's Figure.subplots.
    """
    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def as_array(figure: Figure) -> np.ndarray:
    """Return the pixels of a figure: bytes of shape (height, width, 3)."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return pixels


def as_png(figure: Figure) -> bytes:
    """Return a figure as the contents of a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@styled
def confusion_figure(counts_CC: Tensor) -> Figure:
    """Plot a confusion matrix: targets in rows, predictions in columns, colors by the share of the row."""
    classes = len(counts_CC)
    shares_CC = counts_CC / counts_CC.sum(1, keepdim=True).clamp(min=1)
    side = 1 + 0.36 * classes
    figure, ((axes,),) = blank(side, side)
    axes.imshow(shares_CC.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="prediction", ylabel="target")
    for target, predicted in counts_CC.nonzero().tolist():
        color = "white" if shares_CC[target, predicted] > 0.5 else "black"
        count = str(int(counts_CC[target, predicted]))
        axes.text(predicted, target, count, color=color, ha="center", va="center", fontsize=8, in_layout=False)
    return figure


@styled
def examples_figure(images_BSS: Tensor, targets: Sequence[int], predictions: Sequence[int]) -> Figure:
    """Show images in [0, 1] with the label above each one; wrong predictions in red."""
    rows = -(-len(images_BSS) // COLUMNS)
    side = images_BSS.shape[-1] * 1.1  # with the space between images
    high = images_BSS.shape[-2] * 1.35  # with the label
    figure, ((axes,),) = blank(COLUMNS * 0.9, rows * 0.9 * high / side)
    axes.set(xlim=(0, COLUMNS * side), ylim=(rows * high, 0), aspect="equal")
    axes.axis("off")
    for index, (image_SS, target, predicted) in enumerate(zip(images_BSS, targets, predictions, strict=True)):
        left, bottom = index % COLUMNS * side, (index // COLUMNS + 1) * high
        height, width = image_SS.shape
        extent = (left, left + width, bottom, bottom - height)
        axes.imshow(image_SS.float().cpu().numpy(), cmap="gray", vmin=0, vmax=1, extent=extent)
        right = target == predicted
        label, color = (str(target), RIGHT) if right else (f"{target} read as {predicted}", WRONG)
        axes.text(
            left + width / 2, bottom - height * 1.05, label, color=color, ha="center", fontsize=8, in_layout=False
        )
    axes.set(xlim=(0, COLUMNS * side), ylim=(rows * high, 0))  # imshow changed the limits
    return figure


@styled
def frames_figure(predictions_TF: Tensor, targets_TF: Tensor) -> Figure:
    """Show targets, predictions and their difference as heat maps over frames and bins."""
    figure, ((target, prediction, difference),) = blank(12, 3.4, columns=3, sharey=True)
    low, high = float(targets_TF.min()), float(targets_TF.max())
    errors_TF = predictions_TF - targets_TF
    largest = float(errors_TF.abs().quantile(0.99)) or 1.0
    for axes, title, values_TF, scale in (
        (target, "target", targets_TF, {"vmin": low, "vmax": high}),
        (prediction, "prediction", predictions_TF, {"vmin": low, "vmax": high}),
        (difference, "prediction - target", errors_TF, {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"}),
    ):
        image = axes.imshow(values_TF.T.numpy(), origin="lower", aspect="auto", **scale)
        axes.set(title=title, xlabel="frame")
        figure.colorbar(image, ax=axes)
    target.set_ylabel("bin")
    return figure


@styled
def bins_figure(errors_F: Tensor) -> Figure:
    """Plot the mean squared error of each bin."""
    figure, ((axes,),) = blank(6, 3)
    axes.plot(errors_F.numpy())
    axes.set(xlabel="bin", ylabel="mean squared error", xlim=(0, len(errors_F) - 1), ylim=(0, None))
    axes.axhline(float(errors_F.mean()), color="black", linestyle=":", label=f"mean {float(errors_F.mean()):.4g}")
    axes.legend()
    return figure


@styled
def labels_figure(targets_BT: Tensor, predictions_BT: Tensor, first_step: int, num_classes: int) -> Figure:
    """Show the label of each step as a color, one sequence per row: targets above, predictions below."""
    rows, steps = targets_BT.shape
    figure, axes = blank(max(4, 1 + 0.12 * steps), 1.2 + 0.3 * rows, rows=2, sharex=True)
    edges = (first_step - 0.5, first_step + steps - 0.5, rows - 0.5, -0.5)
    for panel, labels_BT, name in zip(axes[:, 0], (targets_BT, predictions_BT), ("target", "prediction"), strict=True):
        shown = panel.imshow(labels_BT.numpy(), vmin=0, vmax=num_classes - 1, aspect="auto", extent=edges)
        panel.set(title=name, yticks=[])
    axes[-1, 0].set(xlabel="step")
    figure.colorbar(shown, ax=axes[:, 0].tolist(), label="class")
    return figure


@styled
def agreement_figure(targets_B: Tensor, predictions_B: Tensor) -> Figure:
    """Plot predictions against targets, with the line of equality."""
    figure, ((axes,),) = blank(4, 4)
    axes.plot(targets_B.numpy(), predictions_B.numpy(), ".", markersize=4, alpha=0.6)
    axes.axline((float(targets_B[0]), float(targets_B[0])), slope=1, color="black", linewidth=0.8)
    axes.set(xlabel="target", ylabel="prediction")
    return figure
