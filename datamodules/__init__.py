"""Data made ready for recurrent networks, one LightningDataModule a data set."""

from datamodules.adding import Adding
from datamodules.base import Batch, DataError, DataModule
from datamodules.copying import Copying
from datamodules.corpus import Corpus
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST
from datamodules.penn_treebank import PennTreebank
from datamodules.timit import TIMIT
from datamodules.wikitext import WikiText2, WikiText103

__all__ = [
    "MNIST",
    "TIMIT",
    "Adding",
    "Batch",
    "Copying",
    "Corpus",
    "DataError",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "PennTreebank",
    "WikiText2",
    "WikiText103",
]
