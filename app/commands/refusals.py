"""Errors that a library or the operating system raises because of an option, a file or a device."""

from __future__ import annotations

import os
import traceback

from app.errors import UserError

# These modules check options, files and devices. An error raised in another module is an error in the program.
CHECKING = (
    "pytorch_lightning",
    "lightning_fabric",
    "torch.optim",
    "torch.cuda",
    "torch.distributed",
    "torch.serialization",
    "torch.export.pt2_archive",
    "tensorboard",
)
PROGRAMMING = (TypeError, AttributeError, LookupError, NameError, AssertionError, NotImplementedError)


def one_line_refusal(error: BaseException) -> UserError | None:
    """Return ``error`` as a message of one line, or None if it is an error in the program.

    The function that raised the error decides: an option that Lightning's Trainer or an optimizer refuses is invalid
    input, an exception raised by the code of a cell is not.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return UserError(f"out of memory: {_first_line(error)}. Reduce --data.batch_size.")
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return UserError(f"{place}{error.strerror}")
    if _in_a_restored_checkpoint(error):
        return UserError(f"the checkpoint cannot be restored: {type(error).__name__}: {_first_line(error)}")
    if callback := _failed_callback(error):
        return UserError(f"the callback {callback} cannot be used here: {type(error).__name__}: {_first_line(error)}")
    if isinstance(error, AssertionError) and raised_in(error, ("torch.optim",)):  # its way to refuse an option
        return UserError(_first_line(error))
    if isinstance(error, PROGRAMMING) or not raised_in(error, CHECKING):
        return None
    return UserError(_first_line(error))


def raised_in(error: BaseException, packages: tuple[str, ...]) -> bool:
    """Return whether the function that raised ``error`` belongs to one of ``packages``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = frames[-1].f_globals.get("__name__", "") if frames else ""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _in_a_restored_checkpoint(error: BaseException) -> bool:
    """Return whether ``error`` was raised while Lightning restored the contents of a checkpoint.

    Optimizers, loops and callbacks raise any exception where an entry of theirs is missing or has another form.
    """
    return any(
        frame.f_globals.get("__name__") == "pytorch_lightning.trainer.connectors.checkpoint_connector"
        and frame.f_code.co_name.lstrip("_").startswith(("restore", "resume"))
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _failed_callback(error: BaseException) -> str | None:
    """Return the name of the callback of Lightning whose own code, or torch called by it, raised ``error``.

    Such a callback may require attributes of a task that this program's tasks do not have. A callback that runs the
    task may also pass on an exception of the task, which is an error in the program.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        callback = type(frame.f_locals.get("self"))
        if callback.__module__.startswith("pytorch_lightning.callbacks."):
            return callback.__name__
        if package not in ("pytorch_lightning", "lightning_fabric", "torch"):
            return None
    return None


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).strip().partition("\n")[0].split()).rstrip(".")
    return text or type(error).__name__
