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
    """70,000 images of handwritten digits (28 x 28, 256 grey levels) as sequences, pixels scaled to [0, 1].

    The four files of the data set (idx format, gzipped or not) are looked for in the root folder, in ``mnist`` and in
    ``MNIST/raw`` below it; missing ones are downloaded into the last, which is where torchvision keeps them.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Args:
        root: Folder of the data; None means the environment variable DATA_DIR, else ``data``. Nothing is written
            outside it.
        batch_size: Images in a batch (of each process).
        permutation: Order in which the pixels are read, one for all images. ``none``: row by row; an integer: drawn by
            numpy's RandomState of this seed (92916 is the order of expRNN and of much of the literature);
            ``bit_reversal``: by the reversed bits of the pixel's number, so that neighbours come far apart;
            ``run_seed``: drawn by the seed of the run, as in the public code of MomentumRNN, where each run reads
            another order.
        layout: ``pixels`` reads one pixel at a step, ``rows`` as many as an image is wide.
        downsample: Side of the squares of pixels that are averaged into one, rounded to a grey level; a divisor of 28.
        protocol: ``validation`` splits off 5,000 of the 60,000 training images, always the same, to choose the model
            by. ``published`` trains on all 60,000 and measures on the test images after each epoch, as the public code
            of MomentumRNN does, so the model is chosen on the test set and its accuracy there is optimistic.

    Raises:
        ValueError: if an argument lies outside what is accepted.
        DataError: while the data are prepared: if a file is missing and cannot be downloaded, cannot be read, or is
            not whole.
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
    ) -> None:
        super().__init__(root, batch_size)
        if permutation not in NAMED_PERMUTATIONS and not (isinstance(permutation, int) and 0 <= permutation < 2**32):
            raise ValueError(
                f"permutation is {permutation!r}; none, bit_reversal, run_seed or a seed in [0, 2**32) is expected"
            )
        if layout not in ("pixels", "rows"):
            raise ValueError(f"layout is {layout!r}; 'pixels' or 'rows' is expected")
        if downsample < 1 or SIDE % downsample:
            raise ValueError(f"downsample is {downsample}; a divisor of {SIDE} is expected")
        if protocol not in ("validation", "published"):
            raise ValueError(f"protocol is {protocol!r}; 'validation' or 'published' is expected")
        self.permutation = permutation
        self.layout = layout
        self.downsample = downsample
        self.protocol = protocol
        self.chosen_on_test = protocol == "published"

    @property
    def input_size(self) -> int:
        """Number of pixels of one time step."""
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
            "scaling": "grey level / 255",
            "protocol": self.protocol,
            "split": sizes,
        }

    def order(self) -> Tensor:
        """Numbers of the pixels, counted row by row, in the order in which they are read."""
        count = (SIDE // self.downsample) ** 2
        if self.permutation == "none":
            return torch.arange(count)
        if self.permutation == "bit_reversal":
            bits = (count - 1).bit_length()
            return torch.tensor(sorted(range(count), key=lambda pixel: f"{pixel:0{bits}b}"[::-1]))
        seed = self.permutation if isinstance(self.permutation, int) else run_seed()
        if seed is None:
            raise DataError("permutation is 'run_seed', but the run has no seed; call seed_everything before")
        return torch.as_tensor(np.random.RandomState(seed).permutation(count))

    def images(self, inputs: Tensor) -> Tensor:
        side = SIDE // self.downsample
        back = self.order().argsort().to(inputs.device)
        return inputs.flatten(1)[:, back].view(-1, side, side)

    def prepare_data(self) -> None:
        """Download the files that are missing; Lightning calls it in one process of a machine."""
        for part in self.sizes:
            for name in _names(part):
                if self._find(name) is None:
                    self._download(f"{name}.gz")

    def setup(self, stage: str | None = None) -> None:
        training, self.test = self._read_part("train"), self._read_part("t10k")
        if self.chosen_on_test:
            self.train, self.validation = training, self.test
            return
        # not torch's generator and not numpy's new ones: RandomState draws the same in every version
        shuffled = torch.as_tensor(np.random.RandomState(0).permutation(len(training)))
        self.train, self.validation = (
            TensorsDataset(**training.__getitems__(rows.tolist()))
            for rows in (shuffled[self.validation_size :], shuffled[: self.validation_size])
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the order in which its model reads the pixels, and how far the training has come."""
        return {"order": self.order(), **super().state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint whose model reads the pixels in another order."""
        if not torch.equal(state_dict["order"], self.order()):
            raise DataError(
                f"permutation is {self.permutation!r}, but the checkpoint's model reads the pixels in another order; "
                "the permutation (and for run_seed the seed) of its training is expected"
            )
        super().load_state_dict(state_dict)

    def _read_part(self, part: str) -> TensorsDataset:
        images, labels = _names(part)
        count = self.sizes[part]
        images_BSS = self._read(images, (count, SIDE, SIDE))
        if self.downsample > 1:
            images_BSS = F.avg_pool2d(images_BSS[:, None].float(), self.downsample).round().byte()
        images_BTI = images_BSS.flatten(1)[:, self.order()].view(count, -1, self.input_size)
        return TensorsDataset(inputs=images_BTI / 255, targets=self._read(labels, (count,)).long())

    def _find(self, name: str) -> Path | None:
        """The file ``name``, or ``name``.gz, in the first folder that has it."""
        for folder in self.folders:
            for path in (self.root / folder / name, self.root / folder / f"{name}.gz"):
                try:
                    if path.is_file():
                        return path
                except OSError as error:
                    raise DataError(
                        f"{path} cannot be looked for: {error.strerror}; allow the folder to be read, or name another "
                        "one by --data.root"
                    ) from error
        return None

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The bytes of an idx file, of this shape."""
        from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

        path = self._find(name)
        if path is None:
            raise DataError(f"{name} is not in {self.root}; prepare_data downloads it")
        expected = f"an idx file of {' x '.join(map(str, shape))} bytes is expected; move it away, and it is downloaded"
        try:
            with TemporaryDirectory() as folder:
                plain = path
                if path.suffix == ".gz":  # torchvision reads unpacked files only
                    plain = Path(folder, name)
                    with gzip.open(path) as packed, plain.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)
                tensor: Tensor = read_sn3_pascalvincent_tensor(str(plain), strict=False)  # view() then says the sizes
        except Exception as error:  # a damaged file fails in many ways
            if isinstance(error, OSError) and error.errno is not None:  # not gzip's
                raise DataError(f"{path} cannot be read: {error.strerror}; allow the file to be read") from error
            raise DataError(f"{path} is damaged ({str(error) or type(error).__name__}): {expected}") from error
        if tensor.dtype != torch.uint8 or tensor.shape != shape:
            found = f"{' x '.join(map(str, tensor.shape))} numbers of type {tensor.dtype}"
            raise DataError(f"{path} holds {found}: {expected}")
        return tensor

    def _download(self, name: str) -> None:
        """Download a file to where torchvision keeps it; it appears there when it is whole and its checksum right."""
        import torchvision.datasets
        from torchvision.datasets.utils import download_url

        source = getattr(torchvision.datasets, self.known_as)
        folder = self.root / self.folders[0]
        looked = ", ".join(str(self.root / folder) for folder in self.folders)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                failures = []
                for mirror in source.mirrors:
                    try:
                        download_url(mirror + name, temporary, md5=dict(source.resources)[name])
                    except (OSError, RuntimeError) as error:  # RuntimeError: another checksum
                        failures.append(f"{mirror}: {error}")
                    else:
                        Path(temporary, name).replace(folder / name)
                        return
        except OSError as error:
            raise DataError(
                f"{name} is missing (looked for in {looked}), and {folder} cannot be written to download it: "
                f"{error.strerror}; name another folder by --data.root"
            ) from error
        raise DataError(
            f"{name} is missing (looked for in {looked}), and cannot be downloaded ({'; '.join(failures)}); put it "
            "into one of these folders, or name another one by --data.root"
        )


class FashionMNIST(MNIST):
    """70,000 images of articles of clothing (28 x 28, 256 grey levels) as sequences, in place of MNIST's digits.

    Its files have the names of MNIST's, so they are looked for in ``FashionMNIST/raw`` and ``fashion_mnist`` below the
    root folder only. Arguments and protocols are those of MNIST.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", 2017.
    """

    known_as = "FashionMNIST"
    folders = ("FashionMNIST/raw", "fashion_mnist")


def _names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
