"""A fake ``python -m app`` whose ``fit`` takes a moment, so that tests of the queue need no training.

It counts epochs, writes a checkpoint after each, and resumes from it. Its "validation loss" is a formula of the
configuration. The learning rates 0.7, 0.8 and 0.9 make it fail, diverge and lose its checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

EPOCHS = 4
FAILS, DIVERGES, LOSES_CHECKPOINT = 0.7, 0.8, 0.9


def main(options: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["fit"])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--resume", type=Path)
    arguments = parser.parse_args(options)
    run = arguments.resume or arguments.run_dir
    config_path = run / "config.yaml"
    if arguments.config:
        if (run / "checkpoints/last.ckpt").exists():
            print(f"error: {run} contains a run")
            return 2
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        config_path.write_text(arguments.config.read_text())
    config = yaml.safe_load(config_path.read_text())
    rate = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    last = run / "checkpoints" / "last.ckpt"
    if arguments.resume and not last.exists():
        print(f"error: {last} is missing")
        return 2
    epoch = int(last.read_text()) if arguments.resume else 0
    stop = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    with Path(os.environ["TIMES"]).open("a") as file:
        file.write(f"{run.name} {epoch} {os.getpid()}\n")
    if rate == FAILS:
        print("Traceback (most recent call last):\nerror: the data are missing")
        return 2
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).digest()
    loss = digest[0] / 256 + rate
    curves = [{"epoch": k + 1, "step": k + 1, "seconds": k + 1.0, "loss": loss / (k + 1)} for k in range(EPOCHS)]
    while epoch < EPOCHS:
        time.sleep(float(os.environ.get("EPOCH_SECONDS", "0.02")))
        if rate == DIVERGES:
            print("error: the gradients are not finite")
            return 3
        epoch += 1
        last.write_text(str(epoch))
        (run / "curves.tmp").write_text(json.dumps(curves[:epoch]))
        (run / "curves.tmp").replace(run / "curves.json")
        if rate == LOSES_CHECKPOINT and epoch == 2:
            last.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if stop:
            return 128 + stop[0]
    results = {
        "validation": {"loss": loss, "accuracy": 1 - loss / 3},
        "test": {"loss": loss + 0.1, "accuracy": 0.9 - loss / 3},
        "parameters": 1000,
        "seconds": float(EPOCHS),
        "flops": {"forward": 10, "backward": 20},
    }
    (run / "results.json").write_text(json.dumps(results))
    return 0
