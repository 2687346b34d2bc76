"""A small Speech Commands: tones in wave files, in the folder layout of torchaudio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

FOLDER = "SpeechCommands/speech_commands_v0.02"
FREQUENCIES = {"yes": 300.0, "no": 1000.0, "up": 3000.0}  # Hz
SPEAKERS = ("0a", "1b", "2c", "3d", "4e", "5f")  # the last two are for validation and test


def small_sound(word: str, speaker: str) -> np.ndarray:
    """Return a tone of half a second to a bit more than one second in 16 bits."""
    number = SPEAKERS.index(speaker)
    time = np.arange(8_000 + 1_700 * number) / 16_000
    return (3_000 * (1 + number) * np.sin(2 * np.pi * FREQUENCIES[word] * time)).astype(np.int16)


def write_small_speech_commands(root: Path) -> None:
    folder = root / FOLDER
    for word in FREQUENCIES:
        (folder / word).mkdir(parents=True, exist_ok=True)
        for speaker in SPEAKERS:
            soundfile.write(folder / word / f"{speaker}_nohash_0.wav", small_sound(word, speaker), 16_000)
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_/noise.wav", small_sound("yes", "0a"), 16_000)
    for name, speaker in (("validation_list.txt", SPEAKERS[-2]), ("testing_list.txt", SPEAKERS[-1])):
        (folder / name).write_text("".join(f"{word}/{speaker}_nohash_0.wav\n" for word in FREQUENCIES))
