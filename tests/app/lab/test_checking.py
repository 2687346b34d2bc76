"""Checking a study: every arm is built once, and controls have the numbers that they promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.fake_corpus import write_small_corpus
from helpers.paths import ROOT

from app.lab.arms import Arm
from app.lab.checking import check_study, closest
from app.lab.configuration import cell_of, fingerprint, get_option, merged, run_name, set_option
from app.lab.reading import read_study
from app.lab.study import StudyError
from cells import find_cell, flops, gain_report

STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))
MOMENTUM = {"momentum": {"uniform": [0.1, 0.9]}, "step_size": {"log_uniform": [0.2, 2.0]}}


def mistakes(path) -> str:
    with pytest.raises(StudyError) as raised:
        check_study(read_study(path))
    return "\n".join(raised.value.details)


def built_cell(arm: Arm, drawn):
    config, _ = arm.at(drawn)
    name, arguments = cell_of(config)
    torch.manual_seed(0)
    return find_cell(name)(3, 5, **arguments)


def test_every_mistake_of_every_cell_is_reported_at_once(write_study):
    cells = {"LSTN": {}, "LSTM": {"momentum": 0.5}, "MomentumLSTM": {"momentum": {"uniform": [0.0, 1.5]}}}
    text = mistakes(write_study(cells=cells, shared={"model.optimizer.lr": {"log_uniform": [0.001, 0.1]}}))
    assert "LSTN: there is no cell 'LSTN'" in text
    assert "LSTM: momentum is not an argument of LSTM" in text
    assert "MomentumLSTM: momentum" in text
    assert "1.5" in text


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"model.hidden_sise": 4}, "hidden_sise"),
        ({"trainer.max_epoch": 4}, "max_epoch"),
        ({"model.hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_unknown_option_is_refused_before_anything_runs(write_study, shared, message):
    assert message in mistakes(write_study(shared=shared))


def test_model_chosen_on_the_test_set_is_refused(write_study):
    text = mistakes(write_study(config="configs/mnist/lstm_128.yaml", shared={}))
    assert "LSTM: data.protocol must be one with a validation split" in text


def test_another_width_is_refused_for_match_width(write_study):
    cells = {"LSTM": {}, "GRU": {"model.hidden_size": 8}}
    assert "model.hidden_size must be that of the first cell for match width, got 8 and 4" in mistakes(
        write_study(cells=cells)
    )


def test_parameters_of_all_layers_are_matched(write_study):
    layers = {"model.num_layers": 3, "model.bidirectional": True}
    cells = {"LSTM": {"model.hidden_size": 40}, "layers": {"cell": "LSTM", **layers}}
    shared = {"model.optimizer.lr": 0.01}
    one, many = check_study(read_study(write_study(cells=cells, shared=shared, match="parameters"))).arms
    assert many.parameters == pytest.approx(one.parameters, rel=0.2)


@pytest.mark.parametrize("match", ["parameters", "flops"])
def test_sizes_are_matched(write_study, match):
    checked = check_study(read_study(write_study(cells={"LSTM": {}, "GRU": {}, "RNN": {}}, match=match)))

    def size(arm: Arm, change: int = 0) -> int:
        cell = find_cell(arm.cell)(1, get_option(arm.base, "model.hidden_size") + change)
        return sum(p.numel() for p in cell.parameters()) if match == "parameters" else sum(flops(cell, 100, 1))

    wanted = size(checked.arms[0])
    for arm in checked.arms[1:]:
        differences = [abs(size(arm, change) - wanted) for change in (-1, 0, 1)]
        assert differences[1] == min(differences)


def test_closest_size_is_found():
    assert [closest(wanted, lambda size: size * size) for wanted in (1, 2, 3, 90, 91)] == [1, 1, 2, 9, 10]


def test_controls_of_a_momentum_cell_have_its_gain_and_forget_bias(write_study):
    cells = {"MomentumLSTM": MOMENTUM | {"init": "published"}}
    arms = {arm.control: arm for arm in check_study(read_study(write_study(cells=cells, controls="auto"))).arms}
    assert list(arms) == [None, "no_momentum", "same_gain", "same_forget_bias"]
    drawn = {"model.optimizer.lr": 0.01, "momentum": 0.8, "step_size": 0.5}
    reports = {control: gain_report(built_cell(arm, drawn)) for control, arm in arms.items()}
    assert reports[None].dc_gain == pytest.approx(2.5)
    assert reports[None].forget_bias == pytest.approx(1 + 2.5)
    assert reports["no_momentum"].dc_gain == pytest.approx(0.5)
    assert reports["same_gain"].dc_gain == pytest.approx(2.5)
    assert reports["same_forget_bias"].dc_gain == pytest.approx(1.0)
    assert reports["same_forget_bias"].forget_bias == pytest.approx(1 + 2.5)
    assert all(reports[control].growth == 0 for control in arms if control)
    values = {control: arm.at(drawn)[1] for control, arm in arms.items()}
    assert values["no_momentum"] == {"model.optimizer.lr": 0.01, "step_size": 0.5}
    assert values["same_gain"] == {"model.optimizer.lr": 0.01, "step_size": pytest.approx(2.5)}
    assert values["same_forget_bias"] == {"model.optimizer.lr": 0.01, "forget_bias": pytest.approx(1.75)}
    assert all(arm.question for control, arm in arms.items() if control)


@pytest.mark.parametrize(
    ("cell", "arguments", "controls"),
    [
        ("LSTM", {}, []),
        ("MomentumLSTM", {"momentum": 0.0}, []),
        ("MomentumLSTM", {"momentum": 0.3}, ["no_momentum", "same_gain"]),
        ("MomentumGRU", MOMENTUM, ["no_momentum", "same_gain"]),
        ("MomentumDTRIV", MOMENTUM, ["no_momentum", "same_gain"]),
        ("LearnedMomentumLSTM", {}, ["no_momentum", "same_gain"]),
        ("RMSPropLSTM", {}, ["delta"]),
        ("AdamLSTM", {}, ["normalizer_only", "delta"]),
        ("SRLSTM", {}, ["no_restarted_momentum"]),
        ("NesterovLSTM", {}, ["no_restarted_momentum"]),
    ],
)
def test_each_kind_of_cell_has_its_controls(write_study, cell, arguments, controls):
    checked = check_study(read_study(write_study(cells={cell: arguments}, controls="auto")))
    found = [arm.control for arm in checked.arms[1:]]
    assert [control for control in found if control != "bias_correction"] == controls
    for arm in checked.arms:
        built_cell(arm, {dimension.name: dimension.values[0] for dimension in arm.dimensions})


def test_restart_at_every_step_is_a_drive_without_momentum(write_study):
    parent, control = check_study(read_study(write_study(cells={"SRLSTM": {}}, controls="auto"))).arms
    x_BTI = torch.randn(2, 9, 3)
    drawn = {"model.optimizer.lr": 0.01}
    plain = find_cell("MomentumLSTM")(3, 5, momentum=0.0, step_size=0.6)
    cell = built_cell(control, drawn)
    plain.load_state_dict(cell.state_dict())
    assert torch.allclose(cell(x_BTI)[0], plain(x_BTI)[0])
    assert not torch.allclose(built_cell(parent, drawn)(x_BTI)[0], plain(x_BTI)[0])


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_of_this_program_is_right(path, monkeypatch):
    write_small_corpus(Path("data"), "ptb.{}.txt", more_words=4000)  # a language model needs its vocabulary
    monkeypatch.delenv("DATA_DIR", raising=False)
    checked = check_study(read_study(path))
    assert checked.arms


def test_option_is_set_where_the_command_line_sets_it():
    config = {"model": {"class_path": "A", "init_args": {"optimizer": "Adam"}}, "trainer": {}}
    set_option(config, "model.optimizer.lr", 0.1)
    set_option(config, "trainer.max_epochs", 3)
    assert config["model"]["init_args"]["optimizer"] == {"class_path": "Adam", "init_args": {"lr": 0.1}}
    assert get_option(config, "model.optimizer.lr") == 0.1
    assert config["trainer"] == {"max_epochs": 3}


def test_merging_drops_the_arguments_of_another_class():
    first = {"model": {"class_path": "A", "init_args": {"x": 1, "y": 2}}, "seed": 1}
    assert merged(first, {"model": {"class_path": "B"}}) == {"model": {"class_path": "B"}, "seed": 1}
    same = merged(first, {"model": {"class_path": "A", "init_args": {"y": 3}}})
    assert same["model"]["init_args"] == {"x": 1, "y": 3}
    assert first["model"]["init_args"] == {"x": 1, "y": 2}


def test_name_of_a_run_depends_on_contents_only():
    config = {"model": {"class_path": "T", "init_args": {"cell": {"class_path": "cells.LSTM"}}}, "seed_everything": 3}
    turned = dict(reversed(config.items()))
    assert run_name(config) == run_name(turned) == f"LSTM-seed3-{fingerprint(config)}"
    assert run_name(config) != run_name({**config, "seed_everything": 4})
