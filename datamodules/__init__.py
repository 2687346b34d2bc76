"""Real data made ready for recurrent networks, one LightningDataModule a data set."""

from datamodules.base import Batch, DataError, DataModule
from datamodules.digits import Digits
from datamodules.mnist import MNIST, FashionMNIST
from datamodules.timit import TIMIT

__all__ = ["MNIST", "TIMIT", "Batch", "DataError", "DataModule", "Digits", "FashionMNIST"]
