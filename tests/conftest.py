"""Fixtures of all tests: random seed, working folder, fake data, and trained models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.fake_corpus import write_small_corpus
from helpers.fake_mnist import SIZES, VALIDATION_SIZE, write_small_mnist
from helpers.fake_timit import write_disc
from helpers.paths import QUICKSTART, ROOT

from datamodules import MNIST
from datamodules.timit.preparation import prepare_timit

# The tensors of the tests are small, so that more threads would only wait for each other. Child processes inherit this.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _separate_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread of torch: forked processes would wait for other threads, which they do not have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with fake MNIST files, at the default root of the data modules, which accept its sizes."""
    monkeypatch.setattr(MNIST, "sizes", SIZES)
    monkeypatch.setattr(MNIST, "validation_size", VALIDATION_SIZE)
    monkeypatch.delenv("DATA_DIR", raising=False)
    write_small_mnist(Path("data"))
    return Path("data")


@pytest.fixture(scope="session")
def small_timit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fake TIMIT in ``disc`` and its prepared features in ``features``."""
    folder = tmp_path_factory.mktemp("timit")
    write_disc(folder / "disc")
    prepare_timit(folder / "disc", folder / "features", processes=1)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a quick start of two epochs."""
    from app.commands.main import main

    run = tmp_path_factory.mktemp("trained") / "run"
    options = ["--run_dir", str(run), "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", QUICKSTART, "--model.hidden_size", "16", *options]) == 0
    return run


@pytest.fixture(scope="session")
def trained_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small language model."""
    from app.commands.main import main

    folder = tmp_path_factory.mktemp("language")
    write_small_corpus(folder / "data", "ptb.{}.txt")
    options = ["--data.root", str(folder / "data"), "--run_dir", str(folder / "run"), "--data.batch_size", "4"]
    sizes = ["--model.embedding_size", "8", "--model.hidden_sizes", "[8]", "--trainer.max_epochs", "3"]
    sizes += ["--model.adaptive_cutoffs", "[4, 8]"]
    config = str(ROOT / "configs" / "ptb" / "small.yaml")
    assert main(["fit", "--config", config, *options, *sizes, "--trainer.enable_progress_bar", "false"]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study file of one short run, and the directory of the study after it ran."""
    from app.commands.main import main

    folder = tmp_path_factory.mktemp("swept")
    study = folder / "small.yaml"
    study.write_text(
        f"config: {QUICKSTART}\ncells: {{LSTM: {{}}}}\nshared: {{model.hidden_size: 4}}\n"
        "budget: {epochs: 1}\nseeds: {reporting: [0]}\n"
    )
    assert main(["sweep", str(study), "--worker", "--dir", str(folder / "study")]) == 0
    return study, folder / "study"
