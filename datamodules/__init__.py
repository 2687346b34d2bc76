"""Real data made ready for recurrent networks, one LightningDataModule a data set."""

from datamodules.base import Batch, DataError, DataModule
from datamodules.digits import Digits

__all__ = ["Batch", "DataError", "DataModule", "Digits"]
