"""Log-power spectra in dB of sounds, and their inverse: the short-time Fourier transform of the TIMIT task.

Windows of 256 samples (32 ms at 8 kHz, periodic Hann) every 128 samples (16 ms), 129 bins, no centering.

Shapes: B sounds, N samples, T frames, F bins; N = (T + 1) x 128.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import spectrogram
from torchaudio.transforms import Resample

ORIGINAL_RATE, RATE = 16_000, 8_000  # samples per second: recorded, used
WINDOW, HOP, BINS = 256, 128, 129
FLOOR = 1e-5
SILENCE = -50.0  # 10 log10(FLOOR), the value of a silent frame
FILTER_WIDTH = 64  # zero crossings on each side: sines up to 3.7 kHz have an error below -60 dB


def resample(sound: Tensor) -> Tensor:
    """Resample ``sound`` (.., N) in float32 from 16 kHz to (.., N / 2) at 8 kHz.

    The filter is torchaudio's windowed sinc with 64 zero crossings. The public code of MomentumRNN uses MATLAB's
    resample (Kaiser window, 5): features differ by 1.1 dB^2 on average, all of it above bin 110.
    """
    resampled: Tensor = _resampler()(sound)
    return resampled


def padded(sound: Tensor) -> Tensor:
    """Pad ``sound`` (.., N) with zeros to a whole number of hops, and with one window of zeros at each end."""
    return F.pad(sound, (WINDOW, WINDOW + -sound.shape[-1] % HOP))


def frames_of(samples: int) -> int:
    """Return the number of frames T of a sound with this many samples after :func:`padded`."""
    return -(-samples // HOP) + 3


def spectrum(sound: Tensor) -> Tensor:
    """Return the complex spectrum X (.., T, F) of ``sound`` (.., N), without padding or scaling."""
    window = torch.hann_window(WINDOW, dtype=sound.dtype, device=sound.device)
    X: Tensor = spectrogram(sound, 0, window, WINDOW, HOP, WINDOW, power=None, normalized=False, center=False)
    return X.transpose(-2, -1)


def log_power(X: Tensor) -> Tensor:
    """Return 10 log10(1e-5 + |X|^2) in dB; silence is -50."""
    return 10 * torch.log10(FLOOR + X.abs().square())


def features(sound: Tensor) -> Tensor:
    """Return the log power (T, F) in dB, float64, of a sound (N,) at 8 kHz after padding.

    The transform is computed in float64, because float32 has errors in the third decimal near the floor.
    """
    return log_power(spectrum(padded(sound.double())))


def rebuild(power_BTF: Tensor, sound_BN: Tensor) -> Tensor:
    """Return the sound with this log power and the phase of ``sound_BN``, by the inverse transform.

    Args:
        power_BTF: Log power in dB.
        sound_BN: Sound whose phase is used frame by frame.

    Returns:
        (B, N - 256) samples: those of ``sound_BN`` without the first and last 128, which are in one frame only.
    """
    magnitude_BTF = (10 ** (power_BTF / 10) - FLOOR).clamp(min=0).sqrt()
    X_BFT = torch.polar(magnitude_BTF, spectrum(sound_BN).angle()).transpose(1, 2)
    window = torch.hann_window(WINDOW, dtype=sound_BN.dtype, device=sound_BN.device)
    # "center" removes half a window at each end, where windows do not overlap
    rebuilt: Tensor = torch.istft(X_BFT, WINDOW, HOP, WINDOW, window, center=True)
    return rebuilt


@cache
def _resampler() -> Resample:
    return Resample(ORIGINAL_RATE, RATE, lowpass_filter_width=FILTER_WIDTH)
