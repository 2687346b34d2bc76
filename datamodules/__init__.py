"""Data sets for recurrent networks, one LightningDataModule each."""

from datamodules.base import Batch, DataError, DataModule
from datamodules.images.cifar import CIFAR10
from datamodules.images.digits import Digits
from datamodules.images.mnist import MNIST, FashionMNIST
from datamodules.speech_commands import SpeechCommands
from datamodules.synthetic.adding import Adding
from datamodules.synthetic.associative_recall import AssociativeRecall
from datamodules.synthetic.copying import Copying
from datamodules.synthetic.selective_copying import SelectiveCopying
from datamodules.text.corpus import Corpus
from datamodules.text.penn_treebank import PennTreebank
from datamodules.text.wikitext import WikiText2, WikiText103
from datamodules.time_series.time_series import TimeSeries
from datamodules.timit.timit import TIMIT

__all__ = [
    "CIFAR10",
    "MNIST",
    "TIMIT",
    "Adding",
    "AssociativeRecall",
    "Batch",
    "Copying",
    "Corpus",
    "DataError",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "PennTreebank",
    "SelectiveCopying",
    "SpeechCommands",
    "TimeSeries",
    "WikiText2",
    "WikiText103",
]
