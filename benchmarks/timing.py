"""Timing that can be trusted on a shared machine: alternating repeats in one run, medians of ratios, their spread."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Ratio(NamedTuple):
    """Median over the repeats of (time of one) / (time of the other in the same repeat), and the middle half."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(
    functions: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, ``repeats`` for each function, in turn: A B C A B C, after one that is not counted.

    ``time.process_time`` as the ``clock`` counts the processor's time, which others on the machine take less of.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if repeat > 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: list[float], baseline: list[float]) -> Ratio:
    """How long one takes in units of another, from :func:`alternate`.

    What disturbs the machine for longer than one repeat disturbs both and falls out of the ratio.
    """
    ratios = [a / b for a, b in zip(seconds, baseline, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def peak_of(arguments: list[str]) -> float:
    """Megabytes by which a fresh Python process that runs ``arguments`` says that its memory grew at its peak.

    A process for each measurement, because the peak of a process never falls and freed memory is not always returned.
    """
    result = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def growth_of(function: Callable[[], object]) -> float:
    """Megabytes by which this process grows, at its peak, while ``function`` runs; for :func:`peak_of`'s process.

    Linux only: its peak can be reset, so that what loading the libraries took for a moment does not hide the growth.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_kilobytes("VmRSS")
    function()
    return (_resident_kilobytes("VmHWM") - before) / 1024


def _resident_kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what))
