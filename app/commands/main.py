"""The command line: ``python -m app COMMAND`` or ``momentum-rnn COMMAND``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from app.commands.refusals import one_line_refusal
from app.errors import Stopped, UserError

USAGE = """\
usage: python -m app COMMAND [options]

  fit       train a cell, choose the best epoch on validation data   --config configs/quickstart.yaml
            resume a run that was stopped                            --resume RUN
  validate  evaluate a checkpoint on the validation data             --ckpt_path RUN/checkpoints/best.ckpt
  test      evaluate a checkpoint on the test data                   --ckpt_path RUN/checkpoints/best.ckpt
  predict   write a table of predictions (CSV or Parquet)            --ckpt_path FILE --output predictions.csv
  export    write a torch.export or ONNX program                     --ckpt_path FILE --output model.pt2
  generate  continue a text with a trained language model            --ckpt_path FILE --prompt "the market"
  diagnose  write an HTML report on the cells of checkpoints         --ckpt_path FILE [--ckpt_path FILE]
  prepare   write the features of TIMIT to files                     timit --root DISC --out DIR
  sweep     start or continue a study that tunes and compares cells  configs/studies/momentum_digits.yaml --workers 2
  report    write tables, figures and statistics of a study          configs/studies/momentum_digits.yaml
  cells     list the registered cells, or describe one               cells [NAME]

python -m app COMMAND --help shows every option. --traceback shows where an error was raised.
"""
# the modules take seconds to import, so only that of the command is
COMMANDS = {
    "fit": "app.commands.fit",
    "validate": "app.commands.evaluate",
    "test": "app.commands.evaluate",
    "predict": "app.commands.predict",
    "export": "app.commands.export",
    "generate": "app.commands.generate",
    "diagnose": "app.commands.diagnose",
    "prepare": "app.commands.prepare",
    "sweep": "app.commands.sweep",
    "report": "app.commands.report",
    "cells": "app.commands.cells",
}
INTERRUPTED, PIPE_CLOSED = 130, 141  # what shells report for a process ended by SIGINT or SIGPIPE


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Command and options; None: those of the process.

    Returns:
        The exit status. 0: success. 2: invalid input, or a file or device that cannot be used. 3: a loss or weight that
        is not finite. 4: another process of the run was lost. 130: Ctrl-C. 141: standard output was closed. 128 plus
        the number of the signal: a signal stopped the training, which can be resumed. Python itself exits with 1 after
        an error in the program.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # so that a cell in a file of the working directory can be imported
    try:
        _dispatch(arguments)
        sys.stdout.flush()  # reports here that it cannot be written, not at exit
    except Stopped as stopped:
        return stopped.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # standard output was closed, for example by `head`
        _discard_output()
        return PIPE_CLOSED
    except Exception as error:
        refused = error if isinstance(error, UserError) else one_line_refusal(error)
        if refused is None:
            raise
        if show_traceback:
            traceback.print_exc()
        print(f"error: {_printable(str(refused))}", file=sys.stderr)
        for detail in refused.details:
            print(f"  {_printable(detail)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return refused.status
    return 0


def _dispatch(arguments: Sequence[str]) -> None:
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE, end="")
    elif command in COMMANDS:
        getattr(import_module(COMMANDS[command]), command)(options)
    else:
        raise UserError(f"command must be one of {', '.join(COMMANDS)}, got {command!r}")


def _printable(text: str) -> str:
    """Return ``text`` with control characters, which options and files may contain, as escape sequences."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _discard_output() -> None:
    """Point standard output to nowhere, or Python would report at exit that it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
