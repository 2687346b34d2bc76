"""Sound as log-power spectra in dB, and back: the short-time Fourier transform of the TIMIT task.

Windows of 256 samples (32 ms at 8 kHz, periodic Hann) every 128 samples (16 ms), 129 bins, no centring.

Shapes: B sounds, N samples, T frames, F bins; N = (T + 1) x 128.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import spectrogram
from torchaudio.transforms import Resample

ORIGINAL_RATE, RATE = 16_000, 8_000  # samples a second: as recorded, as used
WINDOW, HOP, BINS = 256, 128, 129
FLOOR = 1e-5
SILENCE = -50.0  # 10 log10(FLOOR), what a silent frame holds
FILTER_WIDTH = 64  # zero crossings on a side: a sine up to 3.7 kHz comes out with an error below -60 dB


def resample(sound: Tensor) -> Tensor:
    """``sound`` (.., N) in float32 at 16 kHz as (.., N / 2) at 8 kHz, by a windowed sinc of 64 zero crossings."""
    resampled: Tensor = _resampler()(sound)
    return resampled


def padded(sound: Tensor) -> Tensor:
    """``sound`` (.., N) with zeros up to a whole number of hops, and one window of zeros at each end."""
    return F.pad(sound, (WINDOW, WINDOW + -sound.shape[-1] % HOP))


def frames_of(samples: int) -> int:
    """T, the number of frames of a sound of so many samples after :func:`padded`."""
    return -(-samples // HOP) + 3


def spectrum(sound: Tensor) -> Tensor:
    """X of shape (.., T, F), complex, of ``sound`` (.., N); no padding, no scaling."""
    window = torch.hann_window(WINDOW, dtype=sound.dtype, device=sound.device)
    X: Tensor = spectrogram(sound, 0, window, WINDOW, HOP, WINDOW, power=None, normalized=False, center=False)
    return X.transpose(-2, -1)


def log_power(X: Tensor) -> Tensor:
    """10 log10(1e-5 + |X|^2), in dB; silence is -50."""
    return 10 * torch.log10(FLOOR + X.abs().square())


def features(sound: Tensor) -> Tensor:
    """Log power (T, F) in dB, float64, of a sound (N,) at 8 kHz, padded.

    The transform is computed in float64: near the floor the rounding of float32 would show in the third decimal.
    """
    return log_power(spectrum(padded(sound.double())))


def rebuild(power_BTF: Tensor, sound_BN: Tensor) -> Tensor:
    """The sound with this log power and the phase of ``sound_BN``, by the inverse transform.

    Args:
        power_BTF: Log power in dB.
        sound_BN: Sound whose frames number t have the phase of the frames t of the result.

    Returns:
        (B, N - 256) samples: those of ``sound_BN`` without the first and the last 128, which lie in one frame only.
    """
    magnitude_BTF = (10 ** (power_BTF / 10) - FLOOR).clamp(min=0).sqrt()
    X_BFT = torch.polar(magnitude_BTF, spectrum(sound_BN).angle()).transpose(1, 2)
    window = torch.hann_window(WINDOW, dtype=sound_BN.dtype, device=sound_BN.device)
    # "center" cuts half a window off each end, where the windows do not overlap
    rebuilt: Tensor = torch.istft(X_BFT, WINDOW, HOP, WINDOW, window, center=True)
    return rebuilt


@cache
def _resampler() -> Resample:
    return Resample(ORIGINAL_RATE, RATE, lowpass_filter_width=FILTER_WIDTH)
