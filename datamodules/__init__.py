"""Real data made ready for recurrent networks, one LightningDataModule a data set."""

from datamodules.base import Batch, DataError, DataModule
from datamodules.corpus import Corpus
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST
from datamodules.penn_treebank import PennTreebank
from datamodules.timit import TIMIT
from datamodules.wikitext import WikiText2, WikiText103

__all__ = [
    "MNIST",
    "TIMIT",
    "Batch",
    "Corpus",
    "DataError",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "PennTreebank",
    "WikiText2",
    "WikiText103",
]
