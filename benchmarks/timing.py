"""Timing on a shared machine: repeats alternate in one run, and the result is a median of ratios with its spread."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Ratio(NamedTuple):
    """The median over the repeats of (time of one) / (time of the other in the same repeat), and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def alternate(
    functions: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of ``repeats`` calls of each function, in the order A B C A B C.

    A first call of each is not counted. With ``time.process_time`` as the ``clock``, seconds are those of the
    processor, which other programs change less.
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
    """Return the time of a function in units of another, both from :func:`alternate`.

    A disturbance that lasts longer than a repeat slows both, and does not change their ratio.
    """
    ratios = [a / b for a, b in zip(seconds, baseline, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def peak_of(arguments: list[str]) -> float:
    """Return the peak growth of memory, in megabytes, that a new Python process with ``arguments`` prints.

    Each measurement has its own process, because freed memory is not always returned to the operating system.
    """
    result = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def growth_of(function: Callable[[], object]) -> float:
    """Return the peak growth of this process, in megabytes, while ``function`` runs.

    The process of :func:`peak_of` calls it. It works on Linux only, where the peak of a process can be reset.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_kilobytes("VmRSS")
    function()
    return (_resident_kilobytes("VmHWM") - before) / 1024


def _resident_kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what))
