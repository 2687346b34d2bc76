"""MNIST as sequences: files, order of the pixels, protocols; the real data where DATA_DIR names them."""

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
real = pytest.mark.skipif(DATA_DIR is None, reason="DATA_DIR names no data")


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """The addresses that were asked for."""
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
def test_files_that_are_there_are_found(place, packed, small_mnist):
    shutil.rmtree(small_mnist)
    write_small_mnist(Path("data", place), packed)
    images, labels = small_images("t10k")
    data = ready()
    expected = torch.as_tensor(images).flatten(1)[..., None] / 255
    assert torch.equal(data.test.tensors["inputs"], expected)
    assert torch.equal(data.test.tensors["targets"], torch.as_tensor(labels).long())
    assert not list(Path("data").rglob(".*"))


def test_a_batch_says_what_it_is(small_mnist):
    batch = next(iter(ready(batch_size=7).train_dataloader()))
    assert batch["inputs"].shape == (7, 784, 1)
    assert batch["inputs"].dtype == torch.float32
    assert 0 <= batch["inputs"].min() < batch["inputs"].max() <= 1
    assert batch["targets"].shape == (7,)


def test_training_and_validation_are_the_training_images_and_do_not_overlap(small_mnist):
    data = ready()
    assert (len(data.train), len(data.validation), len(data.test)) == (200, 40, 40)
    published = ready(protocol="published")
    assert sorted(rows(data.train) + rows(data.validation)) == rows(published.train)
    assert len(set(rows(published.train))) == 240


def test_the_split_does_not_depend_on_the_seed(small_mnist):
    first = ready()
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(first.validation.tensors["inputs"], ready().validation.tensors["inputs"])


def test_the_published_protocol_measures_on_the_test_images(small_mnist):
    data = ready(protocol="published")
    assert len(data.train) == 240
    assert rows(data.validation) == rows(data.test)
    assert data.chosen_on_test
    assert data.description["split"] == {"train": 240, "test": 40}


@pytest.mark.parametrize("permutation", ["bit_reversal", "run_seed", 92916])
def test_pixels_are_permuted_the_same_in_every_image(permutation, small_mnist, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    plain, permuted = ready(), ready(permutation=permutation)
    order = permuted.order()
    assert sorted(order.tolist()) == list(range(784))
    assert order.tolist() != list(range(784))
    for part in ("train", "validation", "test"):
        before, after = (getattr(data, part).tensors["inputs"] for data in (plain, permuted))
        assert torch.equal(before[:, order], after)


def test_orders_are_those_of_the_literature(monkeypatch):
    assert MNIST(permutation=92916).order().tolist() == np.random.RandomState(92916).permutation(784).tolist()
    assert MNIST(permutation="bit_reversal").order()[:6].tolist() == [0, 512, 256, 768, 128, 640]
    assert MNIST(permutation="bit_reversal", downsample=14).order().tolist() == [0, 2, 1, 3]
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert MNIST(permutation="run_seed").order().tolist() == np.random.RandomState(7).permutation(784).tolist()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    with pytest.raises(DataError, match="the run has no seed"):
        MNIST(permutation="run_seed").order()


def test_layouts(small_mnist):
    images = torch.as_tensor(small_images("t10k")[0])
    assert torch.equal(ready(layout="rows").test.tensors["inputs"], images / 255)
    quarters = ready(downsample=2)
    assert quarters.test.tensors["inputs"].shape == (40, 196, 1)
    average = images[:, :2, :2].double().mean((1, 2)) / 255
    torch.testing.assert_close(quarters.test.tensors["inputs"][:, 0, 0].double(), average, rtol=0, atol=0.51 / 255)
    assert MNIST(layout="rows", downsample=4).input_size == 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"permutation": "sorted"}, "permutation is 'sorted'; none, bit_reversal, run_seed or a seed"),
        ({"permutation": -1}, "permutation is -1; none, bit_reversal, run_seed or a seed"),
        ({"layout": "columns"}, "layout is 'columns'; 'pixels' or 'rows' is expected"),
        ({"downsample": 3}, "downsample is 3; a divisor of 28 is expected"),
        ({"downsample": 0}, "downsample is 0; a divisor of 28 is expected"),
        ({"protocol": "best"}, "protocol is 'best'; 'validation' or 'published' is expected"),
    ],
)
def test_bad_arguments_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MNIST(**options)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (IMAGES, lambda data: data[: len(data) // 2], "damaged .Compressed file ended"),
        (IMAGES, lambda data: b"", "damaged"),
        (IMAGES, lambda data: b"<html>404</html>", "damaged .Not a gzipped"),
        (IMAGES, lambda data: gzip.compress(gzip.decompress(data)[:-1]), "damaged .shape"),
        (IMAGES, lambda data: gzip.compress(b"\x00\x00\x08"), "damaged"),
        (IMAGES, lambda data: gzip.compress(idx_bytes(np.zeros((9, 28, 28), np.uint8))), "holds 9 x 28 x 28 numbers"),
        (LABELS, lambda data: gzip.compress(idx_bytes(np.zeros(9, np.uint8))), "holds 9 numbers"),
    ],
    ids=["truncated", "empty", "no gzip", "a byte short", "half a header", "too few images", "too few labels"],
)
def test_a_damaged_or_wrong_file_is_named(name, damage, reason, small_mnist):
    (small_mnist / name).write_bytes(damage((small_mnist / name).read_bytes()))
    with pytest.raises(DataError, match=f"^data/{name} (is )?{reason}.*240.* bytes.*move it away"):
        ready()


def test_a_file_that_may_not_be_read_is_named(small_mnist, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gzip.open", refuse)
    with pytest.raises(DataError, match=f"^data/{IMAGES} cannot be read: Permission denied; allow"):
        ready()


def test_a_folder_that_may_not_be_read_is_named(small_mnist, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match="cannot be looked for: Permission denied; allow the folder to be read"):
        ready()


def test_without_a_network_the_missing_file_is_named(small_mnist, no_network):
    (small_mnist / LABELS).unlink()
    with pytest.raises(DataError, match=f"^{LABELS} is missing .looked for in data/MNIST/raw, data/mnist, .*no route"):
        ready()
    assert {Path(url).name for url in no_network} == {LABELS}
    assert len(no_network) == len(torchvision.datasets.MNIST.mirrors)
    assert list(Path("data/MNIST/raw").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(no_network):
    Path("data").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="data/MNIST/raw cannot be written to download it: Not a directory"):
        ready()
    assert not no_network


@pytest.fixture
def served(monkeypatch):
    """The address of a server of the working folder."""
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(Path.cwd())))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_what_is_missing_is_downloaded_whole(small_mnist, served, monkeypatch):
    """The first mirror has lost half of each file: its checksum is wrong, and the next mirror is asked."""
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


def test_fashion_mnist_does_not_take_the_digits(small_mnist, no_network):
    with pytest.raises(DataError, match="looked for in data/FashionMNIST/raw, data/fashion_mnist"):
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


def test_a_run_records_order_split_and_scaling(small_mnist):
    results = fit("--data.permutation", "run_seed", "--seed_everything", "11")
    assert results["preparation"] == {
        "order": {
            "permutation": "run_seed",
            "pixels": 784,
            "first": np.random.RandomState(11).permutation(784)[:8].tolist(),
        },
        "features_of_a_step": 28,
        "scaling": "grey level / 255",
        "protocol": "validation",
        "split": {"train": 200, "validation": 40, "test": 40},
    }
    assert results["chosen_on"].startswith("the validation set")


def test_a_published_run_says_that_it_was_chosen_on_the_test_set(small_mnist, capsys):
    results = fit("--data.protocol", "published")
    assert "validation" not in results
    assert results["chosen_on"].startswith("the test set, for there is no validation split")
    assert results["best_test"]["accuracy"] >= results["test"]["accuracy"]
    assert "what is called validation below is measured on the test set" in capsys.readouterr().out


def test_a_checkpoint_is_not_measured_in_another_order(small_mnist, capsys):
    fit("--data.permutation", "run_seed", "--seed_everything", "11")
    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    assert main(["test", *checkpoint]) == 0
    for other in (["--seed_everything", "12"], ["--data.permutation", "none"]):
        assert main(["test", *checkpoint, *other]) == 2
        assert "the checkpoint's model reads the pixels in another order" in capsys.readouterr().err


def test_the_loader_is_fifty_times_faster_than_training():
    """Against a training step of torch's own kernel with few units, on as many images."""
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


def test_missing_data_are_a_sentence_and_leave_the_run_directory_free(small_mnist, no_network, capsys):
    shutil.move(small_mnist / IMAGES, IMAGES)
    task = ["--model", "SequenceClassifier", "--model.cell", "LSTM", "--run_dir", "run"]
    assert main(["fit", "--data", "MNIST", "--data.root", "data", *task]) == 2
    assert f"error: {IMAGES} is missing" in capsys.readouterr().err
    shutil.move(IMAGES, small_mnist)
    fit()


@real
@pytest.mark.data
def test_the_real_files():
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
