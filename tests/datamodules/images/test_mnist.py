"""Tests of MNIST as sequences: files, order of the pixels, protocols. DATA_DIR is the folder of the real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from helpers.fake_mnist import SIZES, idx_bytes, small_images, write_small_mnist

from app.commands.main import main
from datamodules import MNIST, DataError, FashionMNIST
from datamodules.base import TensorsDataset

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
DATA_DIR = os.environ.get("DATA_DIR")
real = pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR is not set")


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Refuse downloads, and record the requested addresses."""
    asked: list[str] = []

    def refuse(url, root, **_):
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    return asked


def ready(**options) -> MNIST:
    data = MNIST("data", **options)
    data.prepare_data()
    data.setup()
    return data


def rows(dataset) -> list[tuple]:
    inputs = dataset.tensors["inputs"].flatten(1)
    return sorted(map(tuple, torch.cat([inputs, dataset.tensors["targets"][:, None]], 1).tolist()))


@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_existing_files_are_found(place, packed, small_mnist):
    shutil.rmtree(small_mnist)
    write_small_mnist(Path("data", place), packed)
    images, labels = small_images("t10k")
    data = ready()
    expected = torch.as_tensor(images).flatten(1)[..., None] / 255
    assert torch.equal(data.test.tensors["inputs"], expected)
    assert torch.equal(data.test.tensors["targets"], torch.as_tensor(labels).long())
    assert not list(Path("data").rglob(".*"))


def test_batch_has_the_documented_entries(small_mnist):
    batch = next(iter(ready(batch_size=7).train_dataloader()))
    assert batch["inputs"].shape == (7, 784, 1)
    assert batch["inputs"].dtype == torch.float32
    assert 0 <= batch["inputs"].min() < batch["inputs"].max() <= 1
    assert batch["targets"].shape == (7,)


def test_training_and_validation_divide_the_training_images(small_mnist):
    data = ready()
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 40, 40)
    published = ready(protocol="published")
    assert sorted(rows(data.train) + rows(data.validation)) == rows(published.train)
    assert len(set(rows(published.train))) == 240


@pytest.mark.parametrize("protocol", ["validation", "published"])
def test_part_of_the_training_images_is_always_the_same(protocol, small_mnist):
    every, some, fewer = (ready(protocol=protocol, train_size=size) for size in (None, 50, 20))
    assert (len(some.train), len(fewer.train)) == (50, 20)
    assert set(rows(fewer.train)) < set(rows(some.train)) < set(rows(every.train))
    assert rows(some.validation) == rows(every.validation)
    assert some.description["split"]["train"] == 50


def test_more_training_images_than_there_are_raise(small_mnist):
    with pytest.raises(DataError, match="train_size must be at most 200 for protocol validation, got 201"):
        ready(train_size=201)


def test_split_is_independent_of_the_seed(small_mnist):
    first = ready()
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(first.validation.tensors["inputs"], ready().validation.tensors["inputs"])


def test_published_protocol_validates_on_the_test_images(small_mnist):
    data = ready(protocol="published")
    assert len(data.train) == 240
    assert rows(data.validation) == rows(data.test)
    assert data.chosen_on_test
    assert data.description["split"] == {"train": 240, "test": 40}


@pytest.mark.parametrize("permutation", ["bit_reversal", "run_seed", 92916])
def test_all_images_have_the_same_permutation(permutation, small_mnist, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    plain, permuted = ready(), ready(permutation=permutation)
    order = permuted.order()
    assert sorted(order.tolist()) == list(range(784))
    assert order.tolist() != list(range(784))
    for part in ("train", "validation", "test"):
        before, after = (getattr(data, part).tensors["inputs"] for data in (plain, permuted))
        assert torch.equal(before[:, order], after)


def test_permutations_equal_those_of_the_literature(monkeypatch):
    assert MNIST(permutation=92916).order().tolist() == np.random.RandomState(92916).permutation(784).tolist()
    assert MNIST(permutation="bit_reversal").order()[:6].tolist() == [0, 512, 256, 768, 128, 640]
    assert MNIST(permutation="bit_reversal", downsample=14).order().tolist() == [0, 2, 1, 3]
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert MNIST(permutation="run_seed").order().tolist() == np.random.RandomState(7).permutation(784).tolist()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    with pytest.raises(DataError, match="the run has no seed"):
        MNIST(permutation="run_seed").order()


def test_layouts_and_downsampling(small_mnist):
    images = torch.as_tensor(small_images("t10k")[0])
    assert torch.equal(ready(layout="rows").test.tensors["inputs"], images / 255)
    quarters = ready(downsample=2)
    assert quarters.test.tensors["inputs"].shape == (40, 196, 1)
    average = images[:, :2, :2].double().mean((1, 2)) / 255
    torch.testing.assert_close(quarters.test.tensors["inputs"][:, 0, 0].double(), average, rtol=0, atol=0.51 / 255)
    assert MNIST(layout="rows", downsample=4).input_size == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutation": "sorted"}, r"permutation must be one of none, bit_reversal, run_seed, .* got 'sorted'"),
        ({"permutation": -1}, r"or an integer in \[0, 2\*\*32\), got -1"),
        ({"layout": "columns"}, "layout must be one of pixels, rows, got 'columns'"),
        ({"downsample": 3}, "downsample must be a divisor of 28, got 3"),
        ({"downsample": 0}, "downsample must be a divisor of 28, got 0"),
        ({"train_size": 0}, "train_size must be an integer of at least 1, got 0"),
        ({"protocol": "best"}, "protocol must be one of validation, published, got 'best'"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        MNIST(**options)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (IMAGES, lambda data: data[: len(data) // 2], "damaged .Compressed file ended"),
        (IMAGES, lambda data: b"", "damaged"),
        (IMAGES, lambda data: b"<html>404</html>", "damaged .Not a gzipped"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data)[:-1]), "damaged .shape"),
        (IMAGES, lambda data: gzip.compress(b"\x00\x00\x08"), "damaged"),
        (IMAGES, lambda data: gzip.compress(idx_bytes(np.zeros((9, 28, 28), np.uint8))), "has 9 x 28 x 28 numbers"),
        (LABELS, lambda data: gzip.compress(idx_bytes(np.zeros(9, np.uint8))), "has 9 numbers"),
    ],
    ids=["truncated", "empty", "not gzip", "one byte short", "half a header", "too few images", "too few labels"],
)
def test_damaged_file_is_named(name, damage, reason, small_mnist):
    (small_mnist / name).write_bytes(damage((small_mnist / name).read_bytes()))
    with pytest.raises(
        DataError, match=f"^data/{name} (is )?{reason}.*240.* bytes. Move it away, and it is downloaded again"
    ):
        ready()


def test_label_outside_the_classes_is_named(small_mnist):
    labels = small_images("train")[1].copy()
    labels[17] = 200
    (small_mnist / LABELS).write_bytes(gzip.compress(idx_bytes(labels)))
    with pytest.raises(DataError, match=rf"^data/{LABELS} is damaged: labels must be in \[0, 9\], got 200"):
        ready()


def test_unreadable_file_is_named(small_mnist, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gzip.open", refuse)
    with pytest.raises(DataError, match=f"^data/{IMAGES} cannot be read: Permission denied. Make the file readable"):
        ready()


def test_unreadable_folder_is_named(small_mnist, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match=r"cannot be searched: Permission denied\. Make the folder readable"):
        ready()


def test_missing_file_is_named_without_a_network(small_mnist, no_network):
    (small_mnist / LABELS).unlink()
    with pytest.raises(DataError, match=f"^{LABELS} is missing .searched in data/MNIST/raw, data/mnist, .*no route"):
        ready()
    assert {Path(url).name for url in no_network} == {LABELS}
    assert len(no_network) == len(torchvision.datasets.MNIST.mirrors)
    assert list(Path("data/MNIST/raw").iterdir()) == []


def test_unwritable_folder_is_named(no_network):
    Path("data").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="data/MNIST/raw is not writable for a download: Not a directory"):
        ready()
    assert not no_network


@pytest.fixture
def served(monkeypatch):
    """Return the address of a server of the working folder."""
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(Path.cwd())))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_missing_files_are_downloaded_and_verified(small_mnist, served, monkeypatch):
    """The first mirror has half of each file, so the checksum is wrong, and the second mirror is used."""
    checksums = []
    Path("first").mkdir()
    Path("second").mkdir()
    for path in list(small_mnist.iterdir()):
        whole = path.read_bytes()
        checksums.append((path.name, hashlib.md5(whole).hexdigest()))
        Path("first", path.name).write_bytes(whole[: len(whole) // 2])
        path.rename(Path("second", path.name))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", checksums)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{served}first/"])
    with pytest.raises(DataError, match=f"{IMAGES} is missing .*cannot be downloaded .*corrupted"):
        ready()
    assert list(Path("data/MNIST/raw").iterdir()) == []
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{served}first/", f"{served}second/"])
    assert len(ready().train) == 200
    assert {path.name for path in Path("data/MNIST/raw").iterdir()} == {name for name, _ in checksums}


def test_fashion_mnist_ignores_the_files_of_mnist(small_mnist, no_network):
    with pytest.raises(DataError, match="searched in data/FashionMNIST/raw, data/fashion_mnist"):
        FashionMNIST("data").prepare_data()
    assert all("fashion" in url for url in no_network)
    write_small_mnist(Path("data/fashion_mnist"))
    clothes = FashionMNIST("data")
    clothes.prepare_data()
    clothes.setup()
    assert len(clothes.test) == SIZES["t10k"]


def fit(*options: str) -> dict:
    task = ["--model", "SequenceClassifier", "--model.cell", "LSTM", "--model.hidden_size", "4"]
    data = ["--data", "MNIST", "--data.root", "data", "--data.layout", "rows"]
    trainer = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--run_dir", "run"]
    assert main(["fit", *data, *task, *trainer, *options]) == 0
    return json.loads(Path("run/results.json").read_text())


def test_run_records_order_split_and_scaling(small_mnist):
    results = fit("--data.permutation", "run_seed", "--seed_everything", "11")
    assert results["preparation"] == {
        "order": {
            "permutation": "run_seed",
            "pixels": 784,
            "first": np.random.RandomState(11).permutation(784)[:8].tolist(),
        },
        "features_of_a_step": 28,
        "scaling": "gray level / 255",
        "protocol": "validation",
        "split": {"train": 200, "validation": 40, "test": 40},
    }
    assert results["chosen_on"].startswith("the validation set")


def test_published_run_reports_the_choice_on_the_test_set(small_mnist, capsys):
    results = fit("--data.protocol", "published")
    assert "validation" not in results
    assert results["chosen_on"].startswith("the test set, for there is no validation split")
    assert results["best_test"]["accuracy"] >= results["test"]["accuracy"]
    assert "what is called validation below is measured on the test set" in capsys.readouterr().out


def test_checkpoint_with_another_pixel_order_is_refused(small_mnist, capsys):
    fit("--data.permutation", "run_seed", "--seed_everything", "11")
    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    assert main(["test", *checkpoint]) == 0
    for other in (["--seed_everything", "12"], ["--data.permutation", "none"]):
        assert main(["test", *checkpoint, *other]) == 2
        assert "permutation must give the pixel order of the checkpoint" in capsys.readouterr().err


def test_loader_is_fifty_times_faster_than_training():
    """Compare with a training step of torch's kernel with few units on the same number of images."""
    data = MNIST()
    data.train = TensorsDataset(inputs=torch.rand(1280, 784, 1), targets=torch.arange(1280))
    rnn = torch.nn.RNN(1, 32, batch_first=True)
    loading, training = [], []
    for _ in range(3):
        start = time.perf_counter()
        batches = list(data.train_dataloader())
        loading.append((time.perf_counter() - start) / len(batches))
        start = time.perf_counter()
        rnn(batches[0]["inputs"])[0].sum().backward()
        training.append(time.perf_counter() - start)
    assert min(training) > 50 * min(loading)


def test_missing_data_leave_no_run_directory(small_mnist, no_network, capsys):
    shutil.move(small_mnist / IMAGES, IMAGES)
    task = ["--model", "SequenceClassifier", "--model.cell", "LSTM", "--run_dir", "run"]
    assert main(["fit", "--data", "MNIST", "--data.root", "data", *task]) == 2
    assert f"error: {IMAGES} is missing" in capsys.readouterr().err
    shutil.move(IMAGES, small_mnist)
    fit()


@real
@pytest.mark.data
def test_real_files():
    data = MNIST(permutation=92916)
    data.prepare_data()
    data.setup()
    assert data.description["split"] == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert data.test.tensors["targets"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    together = torch.cat([data.train.tensors["inputs"], data.validation.tensors["inputs"]])
    assert together.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert together.std().item() == pytest.approx(0.3081, abs=5e-5)


@real
@pytest.mark.data
@pytest.mark.slow
def test_real_digits_are_learned_row_by_row():
    task = [
        "--model",
        "SequenceClassifier",
        "--model.cell",
        "LSTM",
        "--model.optimizer",
        "Adam",
        "--model.optimizer.lr",
        "3e-3",
    ]
    data = ["--data", "MNIST", "--data.layout", "rows"]
    trainer = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--run_dir", "run"]
    assert main(["fit", *data, *task, *trainer]) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["validation"]["accuracy"] > 0.95
    assert results["test"]["accuracy"] > 0.95
