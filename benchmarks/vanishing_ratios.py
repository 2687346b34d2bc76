"""How much of the gradient reaches the first pixels of MNIST before training, for cells and their controls.

    python -m benchmarks.vanishing_ratios
    python -m benchmarks.vanishing_ratios --root data --hidden_size 128 --seed 0

Each row is a SequenceClassifier at its initialization. The probe is that of a run: the first eight validation
sequences, in float64. The vanishing ratio is mean ||dL/dh_t|| over the first tenth of the steps divided by the mean
over the last tenth. The slope is that of log10 ||dL/dh_t||, in decades per step.

The controls show what the momentum itself contributes: the gain for a constant input and the bias of the forget gate
at rest change with momentum and step size too. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from functools import partial

from pytorch_lightning import seed_everything
from torch.optim import Adam

from app.diagnostics.probe import Probe, slope, vanishing_ratio
from app.tasks import SequenceClassifier
from cells import DTRIV, LSTM, RNN, MomentumLSTM
from datamodules import MNIST

published = partial(MomentumLSTM, init="published")
ROWS = {
    "RNN, torch's initialization": RNN,
    "LSTM, torch's initialization": LSTM,
    "LSTM, published initialization": partial(LSTM, init="published"),
    "LSTM, published, forget bias 1.25": partial(LSTM, init="published", forget_bias=1.25),
    "MomentumLSTM, published, mu 0.6, s 0.6 (gain 1.5)": partial(published, momentum=0.6, step_size=0.6),
    "MomentumLSTM, published, mu 0, s 1.5 (gain 1.5)": partial(published, momentum=0.0, step_size=1.5),
    "MomentumLSTM, published, mu 0.6, s 0.4 (gain 1)": partial(published, momentum=0.6, step_size=0.4),
    "DTRIV": DTRIV,
}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vanishing_ratios")
    parser.add_argument("--root", default=None, help="folder of the data (default: DATA_DIR, or data)")
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(args)
    data = MNIST(arguments.root)
    data.prepare_data()
    data.setup()
    probe = Probe.of(data)
    print("| cell | vanishing ratio | slope |\n|---|---|---|")
    for name, cell in ROWS.items():
        seed_everything(arguments.seed, verbose=False)
        task = SequenceClassifier(cell, data.input_size, data.num_classes, arguments.hidden_size, optimizer=Adam)
        norms_T = probe.measure(task).norms["cell/h"]
        print(f"| {name} | {vanishing_ratio(norms_T):.1e} | {slope(norms_T):.4f} |", flush=True)


if __name__ == "__main__":
    main()
