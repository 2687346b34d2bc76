"""The recordings of TIMIT as they lie on a disc, in any of the layouts in which the corpus goes about."""

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
SENTENCES = 8  # of each speaker, without the two (SA1, SA2) that all of them read
DEPTH = 3  # folders between the root and the corpus
SPEAKER, SENTENCE = r"[fm][a-z]{3}\d", r"s[aix]\d+"
LDC = re.compile(rf"dr[1-8]/({SPEAKER})/({SENTENCE})(?:\.wav)+", re.IGNORECASE)
SAMPLE = re.compile(rf"dr[1-8]-({SPEAKER})/({SENTENCE})(?:\.wav)+", re.IGNORECASE)


class Recording(NamedTuple):
    """A wave file. Speaker and sentence are in lower case, the group is that of the speaker."""

    group: str
    speaker: str
    sentence: str
    path: Path


def find_recordings(root: Path) -> list[Recording]:
    """The recordings below ``root``, without the sentences SA1 and SA2, by group, speaker and sentence.

    Two layouts are known, in any case of letters and with the endings .wav, .WAV and .WAV.wav: the one of the LDC,
    ``TRAIN|TEST/DR1/FCJF0/SI648.WAV``, and that of the free sample, ``dr1-fvmh0/si836.wav``. The corpus may lie up to
    three folders below ``root``. Of several files of one recording the one with the shortest name is taken.

    Raises:
        DataError: if there is no such folder, no corpus in it, or more than one.
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
        raise DataError(f"{error.filename} cannot be read: {error.strerror}; allow the folder to be read") from error
    return sorted(recording for recording in found.values() if not recording.sentence.startswith("sa"))


def group_of(speaker: str) -> str:
    """The part of the corpus that a speaker belongs to: training, development, core_test or other."""
    return next((group for group, speakers in GROUPS.items() if speaker in speakers), OTHER)


def read_sound(path: Path) -> Tensor:
    """The samples of a wave file (NIST SPHERE or RIFF; 16 kHz, 16 bit, one channel), float32 in [-1, 1).

    Raises:
        DataError: if the file cannot be read, is of another kind, or is not whole.
    """
    try:
        header = path.open("rb").read(4096)
        with soundfile.SoundFile(path) as file:
            kind = (file.samplerate, file.channels, file.subtype)
            samples = file.read(dtype="float32")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; allow the file to be read") from error
    except soundfile.SoundFileError as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise DataError(f"{path} is damaged ({reason}): a wave file is expected; copy it anew") from error
    if kind != (ORIGINAL_RATE, 1, "PCM_16"):
        rate, channels, subtype = kind
        raise DataError(
            f"{path} has {rate} samples a second, {channels} channel(s), coded as {subtype}; {ORIGINAL_RATE}, 1 and "
            "PCM_16 are expected"
        )
    declared = _declared_samples(header)
    if len(samples) != declared or not declared:
        raise DataError(f"{path} is not whole: it holds {len(samples)} samples of {declared}; copy it anew")
    return torch.from_numpy(samples)


def differences(utterances: Iterable[tuple[str, str]]) -> list[str]:
    """What the training, development and core test speakers lack or have too much, by name, a phrase for each.

    Args:
        utterances: (speaker, sentence), without SA1 and SA2.
    """
    sentences: dict[str, list[str]] = {}
    for speaker, sentence in utterances:
        sentences.setdefault(speaker, []).append(sentence)
    phrases = []
    for group, speakers in GROUPS.items():
        there, missing = sorted(speakers & sentences.keys()), sorted(speakers - sentences.keys())
        if len(there) < len(missing):
            phrases.append(f"{group}: {len(there)} of {len(speakers)} speakers are there: {' '.join(there) or 'none'}")
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
        raise DataError(f"there is no folder {root}; the folder of the TIMIT disc is expected")
    level = [root]
    for _ in range(DEPTH + 1):
        found = [folder for folder in level if _is_corpus(folder)]
        if len(found) > 1:
            raise DataError(f"{root} holds more than one TIMIT: {', '.join(map(str, found))}; name one of them")
        if found:
            return found[0]
        level = [folder for above in level for folder in _folders(above)]
    raise DataError(
        f"{root} holds no TIMIT: TRAIN and TEST with folders DR1 to DR8 (the LDC's release), or folders such as "
        "dr1-fvmh0 (the free sample), are expected there or up to three folders below; name the folder of the disc"
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
    """How many samples of 16 bits a wave file says it has; 0 if it does not say."""
    if header.startswith(b"NIST_1A"):
        count = re.search(rb"sample_count -i (\d+)", header)
        return int(count[1]) if count else 0
    place = header.find(b"data")
    return int.from_bytes(header[place + 4 : place + 8], "little") // 2 if place >= 0 else 0
