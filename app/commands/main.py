"""The command line: ``python -m app COMMAND``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from app.errors import Stopped, UserError

USAGE = """\
usage: python -m app COMMAND [options]

  fit       train a cell on data, choose by validation, test once   --config configs/quickstart.yaml
            go on with a training that was stopped                  --resume RUN
  validate  measure a checkpoint on the validation data             --ckpt_path RUN/checkpoints/best.ckpt
  test      measure a checkpoint on the test data                   --ckpt_path RUN/checkpoints/best.ckpt
  predict   write a table of predictions (CSV or Parquet)           --ckpt_path FILE --output predictions.csv
  export    write a torch.export or ONNX program                    --ckpt_path FILE --output model.pt2
  generate  continue a text by a trained language model             --ckpt_path FILE --prompt "the market"
  diagnose  write a page about what the cells of checkpoints do     --ckpt_path FILE [--ckpt_path FILE]
  prepare   write the features of TIMIT to files, once              timit --root DISC --out DIR
  sweep     start or continue a study: tune and compare cells     configs/studies/momentum_digits.yaml --workers 2
  report    write what a study found: tables, figures, statistics configs/studies/momentum_digits.yaml
  cells     list the registered cells, or explain one               cells [NAME]

python -m app COMMAND --help shows every option; --traceback shows where an error came from.
"""

INTERRUPTED, PIPE_CLOSED = 130, 141  # exit statuses, as of what SIGINT or SIGPIPE has ended


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Returns:
        0; 2 after a mistake of the user; 3 after a training whose numbers were not finite; 4 where another process of
        the run was lost; 130 after Ctrl-C; where a signal has stopped a training, which can then be gone on with, 128
        and the number of the signal. 1 is Python's own, for an error in the program.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a cell in a file of the working folder is found by its dotted path
    try:
        if command in ("-h", "--help"):
            print(USAGE, end="")
        elif command == "cells":
            from app.commands.cells import list_cells

            list_cells(options)
        elif command == "generate":
            from app.commands.generate import generate

            generate(options)
        elif command == "diagnose":
            from app.commands.diagnose import diagnose

            diagnose(options)
        elif command == "prepare":
            from app.commands.prepare import prepare

            prepare(options)
        elif command == "report":
            from app.commands.report import report

            report(options)
        elif command == "sweep":
            from app.commands.sweep import sweep

            sweep(options)
        elif command in ("fit", "validate", "test", "predict", "export"):
            from app.commands.lightning_cli import run  # imports take seconds: only where they are needed

            run(command, options)
        else:
            raise UserError(
                f"{command!r} is no command; "
                "fit, validate, test, predict, export, generate, diagnose, prepare or cells is expected"
            )
    except UserError as error:
        if show_traceback:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except Stopped as stopped:
        return stopped.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output has had enough, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it once more at the end
        return PIPE_CLOSED
    return 0
