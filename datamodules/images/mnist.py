"""MNIST and Fashion-MNIST as sequences of pixels.

Shapes: B examples, S side of an image in pixels, T time steps, I features of a step; T x I = S x S.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.base import DataError, DataModule, TensorsDataset, run_seed

Permutation = int | Literal["none", "bit_reversal", "run_seed"]
SIDE = 28
NAMED_PERMUTATIONS = ("none", "bit_reversal", "run_seed")


class MNIST(DataModule):
    """70,000 images of handwritten digits (28 x 28, 256 gray levels) as sequences, pixels scaled to [0, 1].

    The four files of the data set (idx format, gzipped or not) are searched in the root folder, in ``mnist`` and in
    ``MNIST/raw`` below it. Missing files are downloaded into ``MNIST/raw``, the folder that torchvision uses.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Args:
        root: Folder of the data; None: the environment variable DATA_DIR, else ``data``. Nothing is written elsewhere.
        batch_size: Images in a batch of each process.
        permutation: Order of the pixels, the same for all images. ``none``: row by row. An integer: a permutation by
            numpy's RandomState with this seed; 92916 is the order of expRNN and of much of the literature.
            ``bit_reversal``: by the reversed bits of the pixel number, which separates neighbors. ``run_seed``: a
            permutation by the seed of the run, as in the public code of MomentumRNN, so that it differs between seeds.
        layout: ``pixels``: one pixel at each step; ``rows``: one row of the image at each step.
        downsample: Side of the squares of pixels that are averaged into one gray level; a divisor of 28.
        protocol: ``validation``: 5,000 of the 60,000 training images, always the same, choose the model.
            ``published``: all 60,000 images train, and the test set is evaluated after each epoch, as in the public
            code of MomentumRNN. The model is then chosen on the test set, so its accuracy is optimistic.
        train_size: Number of training images, the first of a fixed random order; None: all of them.

    Raises:
        ValueError: An argument is outside its range.
        DataError: During preparation and setup: a file is missing and cannot be downloaded, or cannot be read, or has
            the wrong contents.
    """

    num_classes = 10
    provided_sizes = ("input_size", "num_classes")
    known_as: ClassVar[str] = "MNIST"  # in torchvision.datasets, for mirrors and checksums
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "mnist", ".")
    sizes: ClassVar[dict[str, int]] = {"train": 60_000, "t10k": 10_000}
    validation_size: ClassVar[int] = 5_000

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        permutation: Permutation = "none",
        layout: Literal["pixels", "rows"] = "pixels",
        downsample: int = 1,
        protocol: Literal["validation", "published"] = "validation",
        train_size: int | None = None,
    ) -> None:
        super().__init__(root, batch_size)
        if permutation not in NAMED_PERMUTATIONS and not (isinstance(permutation, int) and 0 <= permutation < 2**32):
            raise ValueError(
                "permutation must be one of none, bit_reversal, run_seed, or an integer in [0, 2**32), "
                f"got {permutation!r}"
            )
        if layout not in ("pixels", "rows"):
            raise ValueError(f"layout must be one of pixels, rows, got {layout!r}")
        if downsample < 1 or SIDE % downsample:
            raise ValueError(f"downsample must be a divisor of {SIDE}, got {downsample}")
        if protocol not in ("validation", "published"):
            raise ValueError(f"protocol must be one of validation, published, got {protocol!r}")
        if train_size is not None and train_size < 1:
            raise ValueError(f"train_size must be an integer of at least 1, got {train_size}")
        self.permutation = permutation
        self.train_size = train_size
        self.layout = layout
        self.downsample = downsample
        self.protocol = protocol
        self.chosen_on_test = protocol == "published"

    @property
    def input_size(self) -> int:
        """Number of pixels at one time step."""
        return 1 if self.layout == "pixels" else SIDE // self.downsample

    @property
    def description(self) -> dict[str, Any]:
        order_T = self.order()
        sizes = {part: len(getattr(self, part)) for part in ("train", "validation", "test")}
        if self.chosen_on_test:
            del sizes["validation"]
        return {
            "order": {"permutation": self.permutation, "pixels": len(order_T), "first": order_T[:8].tolist()},
            "features_of_a_step": self.input_size,
            "scaling": "gray level / 255",
            "protocol": self.protocol,
            "split": sizes,
        }

    def order(self) -> Tensor:
        """Return the numbers of the pixels, counted row by row, in reading order."""
        count = (SIDE // self.downsample) ** 2
        if self.permutation == "none":
            return torch.arange(count)
        if self.permutation == "bit_reversal":
            bits = (count - 1).bit_length()
            return torch.tensor(sorted(range(count), key=lambda pixel: f"{pixel:0{bits}b}"[::-1]))
        seed = self.permutation if isinstance(self.permutation, int) else run_seed()
        if seed is None:
            raise DataError("permutation is run_seed, but the run has no seed. Call seed_everything first.")
        return torch.as_tensor(np.random.RandomState(seed).permutation(count))

    def images(self, inputs: Tensor) -> Tensor:
        side = SIDE // self.downsample
        back = self.order().argsort().to(inputs.device)
        return inputs.flatten(1)[:, back].view(-1, side, side)

    def prepare_data(self) -> None:
        """Download missing files. Lightning calls it in one process of each machine."""
        for part in self.sizes:
            for name in _names(part):
                if self._find(name) is None:
                    self._download(f"{name}.gz")

    def setup(self, stage: str | None = None) -> None:
        training, self.test = self._read_part("train"), self._read_part("t10k")
        # numpy guarantees the same draws in every version for RandomState only
        shuffled = torch.as_tensor(np.random.RandomState(0).permutation(len(training)))
        if self.chosen_on_test:
            self.train, self.validation = training, self.test
            rows = shuffled
        else:
            self.validation = _part(training, shuffled[: self.validation_size])
            rows = shuffled[self.validation_size :]
        if self.train_size is not None and self.train_size > len(rows):
            raise DataError(
                f"train_size must be at most {len(rows):,} for protocol {self.protocol}, got {self.train_size}"
            )
        if self.train_size is not None or not self.chosen_on_test:
            self.train = _part(training, rows[: self.train_size])

    def state_dict(self) -> dict[str, Any]:
        """Return the order of the pixels and the position in the training data, for a checkpoint."""
        return {"order": self.order(), **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the model of the checkpoint reads the pixels in the same order."""
        if not torch.equal(state_dict["order"], self.order()):
            raise DataError(
                f"permutation must give the pixel order of the checkpoint, got {self.permutation!r}. Use the "
                "permutation of its training, and for run_seed its seed."
            )
        super().load_state_dict(state_dict)

    def _read_part(self, part: str) -> TensorsDataset:
        images, labels = _names(part)
        count = self.sizes[part]
        images_BSS = self._read(images, (count, SIDE, SIDE))
        if self.downsample > 1:
            images_BSS = F.avg_pool2d(images_BSS[:, None].float(), self.downsample).round().byte()
        images_BTI = images_BSS.flatten(1)[:, self.order()].view(count, -1, self.input_size)
        labels_B = self._read(labels, (count,)).long()
        if labels_B.max() >= self.num_classes:
            raise DataError(
                f"{self._find(labels)} is damaged: labels must be in [0, {self.num_classes - 1}], got "
                f"{int(labels_B.max())}. Move the file away, and it is downloaded again."
            )
        return TensorsDataset(inputs=images_BTI / 255, targets=labels_B)

    def _find(self, name: str) -> Path | None:
        """Return the path of ``name`` or ``name``.gz in the first folder that has it; None: no folder has it."""
        for folder in self.folders:
            for path in (self.root / folder / name, self.root / folder / f"{name}.gz"):
                try:
                    if path.is_file():
                        return path
                except OSError as error:
                    raise DataError(
                        f"{path} cannot be searched: {error.strerror}. Make the folder readable, or set --data.root."
                    ) from error
        return None

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the bytes of an idx file as a tensor of this shape."""
        from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

        path = self._find(name)
        if path is None:
            raise DataError(f"{name} is not in {self.root}. Call prepare_data to download it.")
        expected = (
            f"it must be an idx file of {' x '.join(map(str, shape))} bytes. Move it away, and it is downloaded again."
        )
        try:
            with TemporaryDirectory() as folder:
                plain = path
                if path.suffix == ".gz":  # torchvision reads uncompressed files only
                    plain = Path(folder, name)
                    with gzip.open(path) as packed, plain.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)
                tensor: Tensor = read_sn3_pascalvincent_tensor(str(plain), strict=False)  # the shape is checked below
        except Exception as error:  # a damaged file raises many kinds of exceptions
            if isinstance(error, OSError) and error.errno is not None:  # an error of the system, not of gzip
                raise DataError(f"{path} cannot be read: {error.strerror}. Make the file readable.") from error
            raise DataError(f"{path} is damaged ({str(error) or type(error).__name__}): {expected}") from error
        if tensor.dtype != torch.uint8 or tensor.shape != shape:
            found = f"{' x '.join(map(str, tensor.shape))} numbers of type {tensor.dtype}"
            raise DataError(f"{path} has {found}: {expected}")
        return tensor

    def _download(self, name: str) -> None:
        """Download a file to the folder that torchvision uses, and move it there once its checksum is right."""
        import torchvision.datasets
        from torchvision.datasets.utils import download_url

        source = getattr(torchvision.datasets, self.known_as)
        folder = self.root / self.folders[0]
        searched = ", ".join(str(self.root / folder) for folder in self.folders)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                failures = []
                for mirror in source.mirrors:
                    try:
                        download_url(mirror + name, temporary, md5=dict(source.resources)[name])
                    except (OSError, RuntimeError) as error:  # RuntimeError: wrong checksum
                        failures.append(f"{mirror}: {error}")
                    else:
                        Path(temporary, name).replace(folder / name)
                        return
        except OSError as error:
            raise DataError(
                f"{name} is missing (searched in {searched}), and {folder} is not writable for a download: "
                f"{error.strerror}. Set another folder with --data.root."
            ) from error
        raise DataError(
            f"{name} is missing (searched in {searched}) and cannot be downloaded ({'; '.join(failures)}). Put it into "
            "one of these folders, or set another folder with --data.root."
        )


class FashionMNIST(MNIST):
    """70,000 images of articles of clothing (28 x 28, 256 gray levels) as sequences, with the arguments of MNIST.

    Its files have the names of MNIST's files. They are therefore searched only in ``FashionMNIST/raw`` and
    ``fashion_mnist`` below the root folder.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", 2017.
    """

    known_as = "FashionMNIST"
    folders = ("FashionMNIST/raw", "fashion_mnist")


def _part(images: TensorsDataset, rows: Tensor) -> TensorsDataset:
    return TensorsDataset(**images.__getitems__(rows.tolist()))


def _names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
