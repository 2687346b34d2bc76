"""Study files: what they mean, and that every mistake is reported at once."""

from __future__ import annotations

from math import inf

import pytest

from app.errors import UserError
from app.lab.reading import read_study
from app.lab.space import Dimension, grid, independent, quasi_random
from app.lab.study import Metric, StudyError, Target, find_file

MOMENTUM = Dimension("momentum", "uniform", (0.0, 0.9))
RATE = Dimension("model.optimizer.lr", "log_uniform", (0.001, 0.1))
LAYERS = Dimension("layers", "integer", (1, 3))
INIT = Dimension("init", "choice", ("torch", "published", None))


def mistakes(path) -> list[str]:
    with pytest.raises(StudyError) as raised:
        read_study(path)
    return list(raised.value.details)


def test_study_file_is_read(write_study):
    study = read_study(write_study())
    lstm, momentum = study.cells
    assert (lstm.label, lstm.cell, lstm.arguments, [d.name for d in lstm.dimensions]) == (
        "LSTM", "LSTM", {}, ["model.optimizer.lr"],
    )  # fmt: skip
    assert [d.name for d in momentum.dimensions] == ["model.optimizer.lr", "momentum", "step_size"]
    assert study.options == {"model.hidden_size": 4}
    assert (study.trials, study.epochs, study.steps, study.sampler) == (3, 4, None, "random")
    assert study.outcome == Metric("accuracy", "max")
    assert study.targets == (Target(Metric("loss", "min"), 0.2),)


def test_own_value_of_a_cell_replaces_the_shared_one(write_study):
    study = read_study(write_study(cells={"LSTM": {"model.optimizer.lr": 0.5}, "GRU": {}}))
    assert study.cells[0].dimensions == ()
    assert study.cells[0].options == {"model.optimizer.lr": 0.5}
    assert len(study.cells[1].dimensions) == 1


def test_every_mistake_is_reported_at_once(write_study):
    found = mistakes(
        write_study(
            cells={"MomentumLSTM": {"momentum": {"uniform": [0.9, 0.1]}, "init": {"choice": []}}},
            shared={"model.optimizer.lr": {"log_uniform": [0, 1]}},
            budget={"trials": 0, "epochs": 3, "steps": 5, "hours": 1},
            seeds={"tuning": [0, 7], "reporting": [0, 1]},
            sampler="bayes",
            metrics="accuracy",
            targets=[{"metric": "accuracy"}],
        )
    )
    text = "\n".join(found)
    for part in (
        "momentum: uniform must have a lowest below its highest value, got [0.9, 0.1]",
        "init: choice must have a list of values, got []: the space has no points",
        "model.optimizer.lr: log_uniform must have bounds above 0",
        "budget.trials must be an integer of at least 1, got 0",
        "budget must have epochs or steps, got both",
        "budget.hours is not known; accepted, closest first: ",
        "seeds.tuning and seeds.reporting must not overlap, got [0] in both",
        "sampler must be one of random, independent, grid, tpe, got 'bayes'",
        "metrics is not known; accepted, closest first: ",
        "targets must hold entries like",
    ):
        assert part in text
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampler": "grid", "budget": {}}, "model.optimizer.lr of LSTM must be a choice for sampler grid"),
        ({"sampler": "tpe", "seeds": {"tuning": [1, 2], "reporting": [0]}}, "must be one seed for sampler tpe"),
        ({"budget": {"epochs": 3}}, "budget.trials must say how many points sampler random tries"),
        ({"seeds": {"tuning": [], "reporting": [0]}}, "seeds.tuning must be a list of different integers"),
        ({"seeds": {"tuning": [1], "reporting": [0, 0]}}, "seeds.reporting must be a list of different integers"),
        ({"config": None}, "config must name the configuration to start from"),
        ({"cells": {}}, "cells must map names of cells to their hyperparameters"),
        ({"outcome": {"metric": "accuracy", "mode": "high"}}, "outcome.mode must be max or min, got 'high'"),
        ({"match": "time"}, "match must be one of width, parameters, flops, got 'time'"),
    ],
)
def test_mistake_is_named(write_study, changed, message):
    assert any(message in mistake for mistake in mistakes(write_study(**changed)))


def test_missing_study_names_those_that_exist():
    with pytest.raises(UserError, match=r"momentum_digits\.yaml"):
        find_file("configs/studies/momentum_digit.yaml", "the study")


@pytest.mark.parametrize("draw", [quasi_random, independent])
def test_larger_budget_begins_with_the_points_of_a_smaller_one(draw):
    dimensions = [RATE, MOMENTUM, LAYERS, INIT]
    assert draw(dimensions, 9)[:4] == draw(dimensions, 4)


@pytest.mark.parametrize("draw", [quasi_random, independent])
def test_cells_share_the_values_of_shared_hyperparameters(draw):
    alone = [point["model.optimizer.lr"] for point in draw([RATE], 6)]
    assert [point["model.optimizer.lr"] for point in draw([RATE, MOMENTUM], 6)] == alone


@pytest.mark.parametrize("draw", [quasi_random, independent])
def test_points_lie_in_the_space_and_fill_it(draw):
    points = draw([RATE, MOMENTUM, LAYERS, INIT], 64)
    rates, momenta = ([point[name] for point in points] for name in ("model.optimizer.lr", "momentum"))
    assert 0.001 <= min(rates) < 0.0018
    assert 0.055 < max(rates) <= 0.1
    assert 0.3 < sum(rate < 0.01 for rate in rates) / 64 < 0.7, "uniform in the logarithm"
    assert 0.0 <= min(momenta) < 0.1
    assert 0.8 < max(momenta) <= 0.9
    assert {point["layers"] for point in points} == {1, 2, 3}
    assert {point["init"] for point in points} == {"torch", "published", None}


def test_quantiles_at_the_ends_are_the_bounds():
    assert (MOMENTUM.at(0.0), MOMENTUM.at(1 - 1e-12)) == (0.0, 0.9)
    assert (LAYERS.at(0.0), LAYERS.at(1 - 1e-12)) == (1, 3)


def test_grid_has_every_combination():
    points = grid([INIT, Dimension("seed", "choice", (1, 2))])
    assert len(points) == 6
    assert {tuple(point.values()) for point in points} == {(i, s) for i in INIT.values for s in (1, 2)}


@pytest.mark.parametrize("values", [[0.1], [0.1, inf], [True, 2], ["a", "b"], "0.1", [0.2, 0.1]])
def test_bounds_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="uniform must have"):
        Dimension.read("momentum", {"uniform": values})
