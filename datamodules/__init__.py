"""Data made ready for recurrent networks, one LightningDataModule a data set."""

from datamodules.adding import Adding
from datamodules.base import Batch, DataError, DataModule
from datamodules.copying import Copying
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST
from datamodules.timit import TIMIT

__all__ = ["MNIST", "TIMIT", "Adding", "Batch", "Copying", "DataError", "DataModule", "Digits", "FashionMNIST"]
