"""Tests of resampling, log-power spectra and their inverse, against scipy and sines."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
import torch
from helpers.fake_timit import small_sound

from datamodules.timit import spectra


def error_in_db(found: np.ndarray, expected: np.ndarray) -> float:
    inner = slice(500, -500)
    return 10 * np.log10(np.square((found - expected)[inner]).sum() / np.square(expected[inner]).sum())


def resampled_by_the_formula(sound: np.ndarray) -> np.ndarray:
    """Return y_m = sum_k h_k x_{2m-k} in float64, h a sinc with cutoff 0.99 x 4 kHz and a cos^2 window."""
    cutoff = 0.99 / 2
    k = np.arange(-140, 141)
    h = cutoff * np.sinc(cutoff * k) * np.cos(np.clip(cutoff * k, -64, 64) * np.pi / 64 / 2) ** 2
    return np.convolve(sound.astype(np.float64), h, "same")[::2]


@pytest.mark.parametrize("frequency", [50, 440, 1000, 2500, 3400, 3700])
def test_sine_in_the_pass_band_is_kept(frequency):
    def sine(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)

    found = spectra.resample(torch.tensor(sine(16_000), dtype=torch.float32)).numpy()
    assert len(found) == 8000
    assert error_in_db(found, sine(8000)) < -60


@pytest.mark.parametrize("frequency", [4300, 5000, 7000])
def test_sine_above_the_pass_band_is_removed(frequency):
    sine = np.sin(2 * np.pi * frequency * np.arange(16_000) / 16_000)
    found = spectra.resample(torch.tensor(sine, dtype=torch.float32)).numpy()
    assert 10 * np.log10(np.square(found[500:-500]).mean() * 2) < -60


def test_features_equal_scipy():
    sound = small_sound("faem0", "si648").astype(np.float32) / 2**15
    found = spectra.features(spectra.resample(torch.from_numpy(sound))).numpy()
    resampled = resampled_by_the_formula(sound)
    whole = np.concatenate([np.zeros(256), resampled, np.zeros(-len(resampled) % 128 + 256)])
    window = scipy.signal.get_window("hann", 256)
    starts = range(0, len(whole) - 255, 128)
    X = np.stack([scipy.fft.rfft(window * whole[start : start + 256]) for start in starts])
    expected = 10 * np.log10(1e-5 + np.abs(X) ** 2)
    assert found.shape == expected.shape == (spectra.frames_of(len(resampled)), 129)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_first_and_last_frame_are_silent():
    found = spectra.features(torch.randn(1000))
    assert (found[0] == spectra.SILENCE).all()
    assert (found[-1] == spectra.SILENCE).all()
    assert found[1].max() > -20


def test_rebuild_inverts_power_and_phase():
    sounds = torch.stack([spectra.padded(torch.randn(1000)), spectra.padded(0.1 * torch.randn(1000))])
    power = spectra.log_power(spectra.spectrum(sounds))
    torch.testing.assert_close(spectra.rebuild(power, sounds), sounds[:, 128:-128], rtol=0, atol=1e-4)
    louder = spectra.rebuild(power + 20, sounds)
    torch.testing.assert_close(louder, 10 * sounds[:, 128:-128], rtol=0, atol=0.1)  # the floor is raised too
