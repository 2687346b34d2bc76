"""Figures of gradients through time."""

from __future__ import annotations

import numpy as np
import pytest

from app.plots.gradient_figures import history_figure, profile_figure


def test_figures_show_the_arrays_over_the_same_steps():
    norms = {"h": 10.0 ** -np.arange(12.0).reshape(3, 4), "x": np.zeros((3, 4))}
    figure = history_figure(norms, [0, 10, 30], {"probe": [3, 2, 1], "training": [np.nan, 2, 1]})
    heat, _, below = figure.axes[:3]
    (mesh,) = heat.collections
    np.testing.assert_allclose(mesh.get_array(), -np.arange(12.0).reshape(3, 4).T)
    edges = mesh.get_coordinates()[0, :, 0]
    assert edges.tolist() == [-5, 5, 20, 40]
    assert below.get_xlim() == heat.get_xlim() == (-5, 40)
    assert below.lines[0].get_xydata().tolist() == [[0, 3], [10, 2], [30, 1]]
    left, right = (axis.get_position() for axis in (heat, below))
    assert (left.x0, left.x1) == pytest.approx((right.x0, right.x1))
    lines = profile_figure({"step 0": {"h": norms["h"][0]}, "step 30": {"h": norms["h"][2]}}).axes[0].lines
    assert lines[1].get_ydata().tolist() == norms["h"][2].tolist()
    assert lines[0].get_xdata().tolist() == [1, 2, 3, 4]
