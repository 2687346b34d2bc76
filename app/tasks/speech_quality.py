"""Quality of a rebuilt sound: segmental signal-to-noise ratio, intelligibility, perceived quality.

Shapes: N samples, K frames.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from datamodules.timit.spectra import RATE

FRAME = 256  # samples: 32 ms
LOWEST, HIGHEST = -10.0, 35.0  # dB: listeners hear no difference beyond these ratios
PACKAGES = {"stoi": "pystoi", "pesq": "pesq"}  # torchmetrics needs them
LOWEST_PESQ = 1.0


def segmental_snr(estimate_N: Tensor, sound_N: Tensor) -> Tensor:
    """Return the mean over frames of 10 log10(sum s^2 / sum (s - s^)^2) in dB, each clamped to [-10, 35].

    Frames of 32 ms do not overlap. Frames in which s is 0 are left out.

    Args:
        estimate_N: The rebuilt sound s^.
        sound_N: The true sound s, with at least one sample other than 0.

    Source: Hansen and Pellom, "An Effective Quality Evaluation Protocol for Speech Enhancement Algorithms", ICSLP 1998.
    """
    whole = len(sound_N) - len(sound_N) % FRAME
    signal_K = sound_N[:whole].view(-1, FRAME).double().square().sum(1)
    noise_K = (sound_N - estimate_N)[:whole].view(-1, FRAME).double().square().sum(1)
    audible_K = signal_K > 0
    ratio_K = 10 * torch.log10(signal_K[audible_K] / noise_K[audible_K])
    return ratio_K.clamp(LOWEST, HIGHEST).mean()


def speech_measures(estimate_N: Tensor, sound_N: Tensor) -> dict[str, Tensor]:
    """Return segmental SNR in dB, STOI (Taal et al. 2011; at most 1) and narrow-band PESQ (ITU-T P.862; 1 to 4.5).

    STOI and PESQ are left out if their packages are not installed. An estimate in which PESQ finds no speech gets 1.

    Args:
        estimate_N: The rebuilt sound at 8 kHz.
        sound_N: The true sound at 8 kHz.
    """
    measures = {"segmental_snr": segmental_snr(estimate_N, sound_N)}
    estimate_N, sound_N = estimate_N.float().cpu(), sound_N.float().cpu()
    if _is_installed(PACKAGES["stoi"]):
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility as stoi

        measures["stoi"] = stoi(estimate_N, sound_N, RATE)
    if _is_installed(PACKAGES["pesq"]):
        from pesq import NoUtterancesError
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality as pesq

        try:
            measures["pesq"] = pesq(estimate_N, sound_N, RATE, "nb")
        except (NoUtterancesError, ValueError):  # the package raises ValueError for a silent estimate
            measures["pesq"] = torch.tensor(LOWEST_PESQ)
    return measures


def _is_installed(package: str) -> bool:
    spec = find_spec(package)
    return spec is not None and spec.origin is not None  # a plain folder of that name has no origin
