"""Penn Treebank for language modeling."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from datamodules.base import DataError
from datamodules.files import md5
from datamodules.text.corpus import Corpus


class PennTreebank(Corpus):
    """Penn Treebank in Mikolov's form: 929,589, 73,760 and 82,430 words (ends of lines counted), 10,000 distinct.

    The files are searched in ``ptb`` and ``penn-treebank`` below the root folder and in the root folder. Missing files
    are downloaded into ``penn-treebank`` from the address that torchtext has, and verified by checksum. Arguments are
    those of :class:`Corpus`.

    Source: Marcus, Marcinkiewicz and Santorini, "Building a large annotated corpus of English: the Penn Treebank",
    1993; Mikolov et al., "Recurrent neural network based language model", Interspeech 2010.
    """

    folders = ("ptb", "penn-treebank", ".")
    own_names = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
    checksums: ClassVar[dict[str, str]] = {  # MD5
        "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
        "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
    }

    def _find(self, name: str) -> Path:
        if name in self.checksums and not any((self.root / folder / name).is_file() for folder in self.folders):
            self._download(name)
        return super()._find(name)

    def _download(self, name: str) -> None:
        """Download a file, and move it into its folder once its checksum is right."""
        from torchtext.datasets import PennTreebank as Source
        from torchtext.utils import download_from_url

        folder = self.root / self.folders[1]
        url = next(url for url in Source.urls if url.endswith(f"/{name}"))
        searched = ", ".join(str(self.root / folder) for folder in self.folders)
        instead = f"Put it into one of {searched}, or set another folder with --data.root."
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                path = Path(temporary, name)
                download_from_url(url, str(path))
                found = md5(path)
                if found != self.checksums[name]:
                    raise DataError(f"the MD5 checksum of {url} must be {self.checksums[name]}, got {found}. {instead}")
                path.replace(folder / name)
        except OSError as error:  # connection failures too
            raise DataError(f"{name} is missing and cannot be downloaded from {url} ({error}). {instead}") from error
