"""Figures of predictions."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

from app.plots.figures import COLUMNS, RIGHT, WRONG, as_array, confusion_figure, examples_figure
from datamodules import MNIST


def test_confusion_figure_is_darker_for_larger_shares():
    counts = torch.tensor([[8, 0, 0], [5, 5, 0], [0, 0, 0]])
    ((axes,),) = (confusion_figure(counts).axes,)
    assert axes.images[0].get_array().tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]]
    written = {(text.get_position()[::-1], text.get_text(), text.get_color()) for text in axes.texts}
    assert written == {((0, 0), "8", "white"), ((1, 0), "5", "black"), ((1, 1), "5", "black")}
    light, dark = (axes.images[0].cmap(share)[0] for share in (0.0, 1.0))
    assert light > dark


def test_examples_figure_marks_wrong_predictions():
    images = torch.zeros(COLUMNS + 1, 4, 4)
    images[0] = 1
    figure = examples_figure(images, [3] * (COLUMNS + 1), [3] * COLUMNS + [5])
    (axes,) = figure.axes
    shown = np.stack([image.get_array() for image in axes.images])
    assert (shown == images.numpy()).all()
    assert [text.get_text() for text in axes.texts] == ["3"] * COLUMNS + ["3 read as 5"]
    assert [text.get_color() for text in axes.texts] == [RIGHT] * COLUMNS + [WRONG]
    lefts, _, bottoms, _ = zip(*(image.get_extent() for image in axes.images), strict=True)
    assert list(lefts[:COLUMNS]) == sorted(set(lefts))
    assert lefts[COLUMNS] == lefts[0]
    assert bottoms[COLUMNS] == 2 * bottoms[0]


def test_pixels_of_a_figure():
    before = dict(matplotlib.rcParams)
    pixels = as_array(confusion_figure(torch.tensor([[1, 0], [0, 1]])))
    assert before == dict(matplotlib.rcParams)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (172, 172, 3)
    assert (pixels[0] == 255).all()
    assert pixels.min() < 100


@pytest.mark.parametrize("options", [{}, {"permutation": 92916}, {"layout": "rows", "downsample": 2}])
def test_images_are_restored_from_any_order_of_pixels(options, small_mnist):
    data, plain = MNIST(**options), MNIST(downsample=options.get("downsample", 1))
    data.setup()
    plain.setup()
    expected = plain.test.tensors["inputs"][:3].flatten(1)
    assert torch.equal(data.images(data.test.tensors["inputs"][:3]).flatten(1), expected)
