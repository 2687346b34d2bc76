"""How much a rebuilt sound is worth: segmental signal-to-noise ratio, intelligibility, perceived quality.

Shapes: N samples, K frames.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from datamodules.timit.spectra import RATE

FRAME = 256  # samples: 32 ms
LOWEST, HIGHEST = -10.0, 35.0  # dB: what lies outside is not heard as better or worse
PACKAGES = {"stoi": "pystoi", "pesq": "pesq"}  # what torchmetrics measures them with
LOWEST_PESQ = 1.0


def segmental_snr(estimate_N: Tensor, sound_N: Tensor) -> Tensor:
    """Mean over frames of the signal-to-noise ratio 10 log10(sum s^2 / sum (s - s^)^2) in dB, each within -10 to 35.

    Frames of 32 ms, one after the other; those in which the sound is 0 throughout are left out.

    Args:
        estimate_N: The rebuilt sound s^.
        sound_N: The true sound s, with at least one sample other than 0.

    Source: Hansen and Pellom, "An Effective Quality Evaluation Protocol for Speech Enhancement Algorithms", ICSLP 1998.
    """
    whole = len(sound_N) - len(sound_N) % FRAME
    signal_K = sound_N[:whole].view(-1, FRAME).double().square().sum(1)
    noise_K = (sound_N - estimate_N)[:whole].view(-1, FRAME).double().square().sum(1)
    heard_K = signal_K > 0
    ratio_K = 10 * torch.log10(signal_K[heard_K] / noise_K[heard_K])
    return ratio_K.clamp(LOWEST, HIGHEST).mean()


def measured() -> list[str]:
    """The measures whose packages are installed."""
    specs = {name: find_spec(package) for name, package in PACKAGES.items()}
    return ["segmental_snr", *(name for name, spec in specs.items() if spec and spec.origin)]  # not a mere folder


def speech_measures(estimate_N: Tensor, sound_N: Tensor) -> dict[str, Tensor]:
    """Segmental SNR in dB; STOI (Taal et al. 2011), up to 1; PESQ (ITU-T P.862, narrow band), 1 to 4.5.

    STOI and PESQ where their packages are installed. An estimate in which PESQ finds no speech counts 1.

    Args:
        estimate_N: The rebuilt sound at 8 kHz.
        sound_N: The true one.
    """
    found = {"segmental_snr": segmental_snr(estimate_N, sound_N)}
    names = measured()
    estimate_N, sound_N = estimate_N.float().cpu(), sound_N.float().cpu()
    if "stoi" in names:
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility as stoi

        found["stoi"] = stoi(estimate_N, sound_N, RATE)
    if "pesq" in names:
        from pesq import NoUtterancesError
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality as pesq

        try:
            found["pesq"] = pesq(estimate_N, sound_N, RATE, "nb")
        except (NoUtterancesError, ValueError):  # ValueError: what the package makes of a silent estimate
            found["pesq"] = torch.tensor(LOWEST_PESQ)
    return found
