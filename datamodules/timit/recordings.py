"""Recordings of TIMIT on disk, in any of the known layouts of the corpus."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from datamodules.base import DataError
from datamodules.timit.speakers import CORE_TEST, DEVELOPMENT, TRAINING
from datamodules.timit.spectra import ORIGINAL_RATE

GROUPS = {"training": TRAINING, "development": DEVELOPMENT, "core_test": CORE_TEST}
OTHER = "other"  # the other 94 speakers of the folder TEST
SENTENCES = 8  # of each speaker, without SA1 and SA2, which all speakers read
DEPTH = 3  # levels of folders between the root and the corpus
SPEAKER, SENTENCE = r"[fm][a-z]{3}\d", r"s[aix]\d+"
LDC = re.compile(rf"dr[1-8]/({SPEAKER})/({SENTENCE})(?:\.wav)+", re.IGNORECASE)
SAMPLE = re.compile(rf"dr[1-8]-({SPEAKER})/({SENTENCE})(?:\.wav)+", re.IGNORECASE)


class Recording(NamedTuple):
    """Wave file with the group of its speaker; speaker and sentence are in lower case."""

    group: str
    speaker: str
    sentence: str
    path: Path


def find_recordings(root: Path) -> list[Recording]:
    """Return the recordings below ``root``, without SA1 and SA2, sorted by group, speaker and sentence.

    Two layouts are known: that of the LDC, ``TRAIN|TEST/DR1/FCJF0/SI648.WAV``, and that of the free sample,
    ``dr1-fvmh0/si836.wav``. Letters may be in upper or lower case, and extensions may be .wav, .WAV or .WAV.wav. The
    corpus may be up to three folders below ``root``. Of several files of a recording, the shortest name is used.

    Raises:
        DataError: The folder does not exist, or holds no corpus or more than one.
    """
    try:
        corpus = _find_corpus(root)
        found: dict[tuple[str, str], Recording] = {}
        for path in sorted(corpus.rglob("*"), key=lambda path: (len(path.name), path)):
            place = path.relative_to(corpus).as_posix()
            match = SAMPLE.fullmatch(place) or LDC.fullmatch(place.partition("/")[2])
            if match:
                speaker, sentence = match[1].lower(), match[2].lower()
                found.setdefault((speaker, sentence), Recording(group_of(speaker), speaker, sentence, path))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}. Make the folder readable.") from error
    return sorted(recording for recording in found.values() if not recording.sentence.startswith("sa"))


def group_of(speaker: str) -> str:
    """Return the group of a speaker: training, development, core_test or other."""
    return next((group for group, speakers in GROUPS.items() if speaker in speakers), OTHER)


def read_sound(path: Path) -> Tensor:
    """Return the samples of a wave file (NIST SPHERE or RIFF; 16 kHz, 16 bit, one channel), float32 in [-1, 1).

    Raises:
        DataError: The file cannot be read, has another format, or is incomplete.
    """
    try:
        header = path.open("rb").read(4096)
        with soundfile.SoundFile(path) as file:
            kind = (file.samplerate, file.channels, file.subtype)
            samples = file.read(dtype="float32")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Make the file readable.") from error
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise DataError(f"{path} must be a wave file, got a damaged one ({reason}). Copy it again.") from error
    if kind != (ORIGINAL_RATE, 1, "PCM_16"):
        rate, channels, subtype = kind
        raise DataError(
            f"{path} must have {ORIGINAL_RATE} samples per second, 1 channel and the coding PCM_16, got {rate}, "
            f"{channels} and {subtype}"
        )
    declared = _declared_samples(header)
    if len(samples) != declared or not declared:
        raise DataError(f"{path} must have {declared} samples, as its header says, got {len(samples)}. Copy it again.")
    return torch.from_numpy(samples)


def differences(utterances: Iterable[tuple[str, str]]) -> list[str]:
    """Return a phrase for each difference from the corpus: missing speakers, missing and extra sentences.

    Args:
        utterances: (speaker, sentence) of each utterance, without SA1 and SA2.
    """
    sentences: dict[str, list[str]] = {}
    for speaker, sentence in utterances:
        sentences.setdefault(speaker, []).append(sentence)
    phrases = []
    for group, speakers in GROUPS.items():
        there, missing = sorted(speakers & sentences.keys()), sorted(speakers - sentences.keys())
        if len(there) < len(missing):
            names = " ".join(there) or "none"
            phrases.append(f"{group}: {len(there)} of {len(speakers)} speakers are present: {names}")
        elif missing:
            phrases.append(f"{group}: {len(missing)} of {len(speakers)} speakers are missing: {' '.join(missing)}")
        phrases += [
            f"{group}: {speaker} has {len(names)} sentences, not {SENTENCES}: {' '.join(names)}"
            for speaker, names in sentences.items()
            if speaker in speakers and len(names) != SENTENCES
        ]
    return phrases


def _find_corpus(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"the folder of the TIMIT disc does not exist: {root}")
    level = [root]
    for _ in range(DEPTH + 1):
        found = [folder for folder in level if _is_corpus(folder)]
        if len(found) > 1:
            raise DataError(f"{root} must hold one TIMIT, got several: {', '.join(map(str, found))}. Use one of them.")
        if found:
            return found[0]
        level = [folder for above in level for folder in _folders(above)]
    raise DataError(
        f"{root} holds no TIMIT. The LDC's release has folders TRAIN and TEST with DR1 to DR8, and the free sample has "
        "folders such as dr1-fvmh0. Use the folder of the disc, or one up to three folders above it."
    )


def _is_corpus(folder: Path) -> bool:
    for child in _folders(folder):
        if re.fullmatch(rf"dr[1-8]-{SPEAKER}", child.name, re.IGNORECASE):
            return True
        if child.name.lower() in ("train", "test") and any(
            re.fullmatch("dr[1-8]", region.name, re.IGNORECASE) for region in _folders(child)
        ):
            return True
    return False


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _declared_samples(header: bytes) -> int:
    """Return the number of 16-bit samples in the header of a wave file; 0: it has no such entry."""
    if header.startswith(b"NIST_1A"):
        count = re.search(rb"sample_count -i (\d+)", header)
        return int(count[1]) if count else 0
    place = header.find(b"data")
    return int.from_bytes(header[place + 4 : place + 8], "little") // 2 if place >= 0 else 0
