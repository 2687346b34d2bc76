"""A small imitation of TIMIT: wave files of filtered noise in the layouts of the corpus, the same at each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SPEAKERS = {  # real names, by the groups of the corpus; two of the training names contain "sa"
    "training": ("fsag0", "faem0", "mabc0", "msat1"),
    "development": ("fadg0", "mrws1"),
    "core_test": ("felc0", "mdab0"),
}
EVERYBODY = [speaker for group in SPEAKERS.values() for speaker in group]
SENTENCES = ("sa1", "si648", "sx37")


def small_sound(speaker: str, sentence: str) -> np.ndarray:
    """Return at least half a second of filtered noise of varying loudness, as 16-bit numbers."""
    seed = EVERYBODY.index(speaker) * 10 + SENTENCES.index(sentence)
    rng = np.random.RandomState(seed)
    count = 8000 + 517 * seed
    noise = rng.standard_normal(count) * (0.02 + 0.2 * np.sin(np.arange(count) / 1500) ** 2)
    for step in range(1, 4):
        noise[step:] += 0.2 * noise[:-step]
    return (np.clip(noise, -0.99, 0.99) * 2**15).astype(np.int16)


def write_wave(path: Path, sound: np.ndarray, kind: str = "WAV", rate: int = RATE) -> None:
    """Write a wave file of 16 bits, RIFF (WAV) or NIST SPHERE (NIST)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="PCM_16", format=kind)


def write_sample(folder: Path) -> None:
    """Write the layout of the free sample: dr1-faem0/si648.wav."""
    for speaker in EVERYBODY:
        for sentence in SENTENCES:
            write_wave(folder / f"dr1-{speaker}" / f"{sentence}.wav", small_sound(speaker, sentence))


def write_disc(folder: Path, kind: str = "NIST", upper: bool = True, ending: str = ".wav") -> None:
    """Write the layout of the LDC: TRAIN/DR1/FAEM0/SI648.WAV, in upper or lower case."""
    for group, speakers in SPEAKERS.items():
        for speaker in speakers:
            for sentence in SENTENCES:
                place = f"{'train' if group == 'training' else 'test'}/dr1/{speaker}/{sentence}{ending}"
                write_wave(folder / (place.upper() if upper else place), small_sound(speaker, sentence), kind)
