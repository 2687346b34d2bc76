"""Speed of the preparation of TIMIT, in multiples of real time (the duration of the sound), and its peak memory.

    python -m benchmarks.timit_preparation
    python -m benchmarks.timit_preparation --recordings 5040 --processes 2

Recordings of noise, 3 s each as in the corpus, are written to a temporary folder in the layout of the LDC. The corpus
has 5,040 recordings without SA1 and SA2. Memory is the largest sum of the proportional set sizes (PSS) of all
processes, sampled five times a second, on Linux only. The processor time is what a machine without other work would
need.
"""

from __future__ import annotations

import argparse
import os
import resource
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from datamodules.timit.preparation import prepare_timit
from datamodules.timit.speakers import CORE_TEST, DEVELOPMENT, TRAINING

SECONDS, RATE = 3, 16_000


def write_disc(folder: Path, recordings: int) -> None:
    """Write recordings of noise, the same number for each speaker of the corpus."""
    speakers = sorted(TRAINING | DEVELOPMENT | CORE_TEST)
    noise = np.random.RandomState(0).randint(-3000, 3000, SECONDS * RATE + recordings).astype(np.int16)
    for number in range(recordings):
        turn, who = divmod(number, len(speakers))
        path = folder / "TRAIN" / "DR1" / speakers[who].upper() / f"SI{turn}.WAV"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise[number : number + SECONDS * RATE], RATE, subtype="PCM_16", format="NIST")


def memory(process: int) -> int:
    """Return the PSS of a process and of its children, in bytes; 0 for a process that has ended."""
    try:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        children = " ".join(task.read_text() for task in Path(f"/proc/{process}/task").glob("*/children")).split()
    except OSError:
        return 0
    (own,) = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
    return own + sum(memory(int(child)) for child in children)


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Write the recordings, prepare them, and print speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, memory(os.getpid()))

    with TemporaryDirectory() as folder:
        write_disc(Path(folder, "disc"), arguments.recordings)
        watcher = threading.Thread(target=watch)
        watcher.start()
        start, used = time.perf_counter(), processor_seconds()
        prepare_timit(Path(folder, "disc"), Path(folder, "features"), processes=arguments.processes)
        seconds, used = time.perf_counter() - start, processor_seconds() - used
        done.set()
        watcher.join()
    sound = arguments.recordings * SECONDS
    print(f"{arguments.recordings:,} recordings, {arguments.processes} processes: {sound / seconds:.0f} x real time")
    print(f"time of one processor: {used:.1f} s, {sound / used:.0f} x real time for each; peak {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
