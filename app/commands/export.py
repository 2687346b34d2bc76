"""``python -m app export``: a trained model as a program for other software, compared with the model.

Shapes: B batch, T time, I input_size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from app.commands.parsing import CommandLine
from app.commands.session import echo, run
from app.errors import UserError
from app.runs.checkpoint_files import read_checkpoint
from datamodules.files import replacing

TOLERANCE = 1e-4  # relative to the largest output: another runtime sums in another order, in float32


def export(options: Sequence[str]) -> None:
    """Run the command ``export``."""
    run("export", options, _export)


def _export(line: CommandLine) -> None:
    output = Path(line.options.output or "model.pt2")
    line.model.load_state_dict(read_checkpoint(Path(line.options.ckpt_path))["state_dict"])
    line.datamodule.prepare_data()
    line.datamodule.setup("test")
    example = next(iter(line.datamodule.test_dataloader()))["inputs"]
    if not example.is_floating_point():
        raise UserError(f"{type(line.model).__name__} reads words; only models of numeric sequences can be exported")
    try:
        error = write_program(line.model, example, output)
    except OSError as unwritable:
        raise UserError(f"{output} cannot be written: {unwritable.strerror or unwritable}") from unwritable
    echo(f"{output}: equals the model within {error:.1e} of its largest output")


def write_program(model: nn.Module, example_BTI: Tensor, output: Path) -> float:
    """Write ``model`` as a torch.export program (``.pt2``) or as ONNX (``.onnx``).

    The number of rows is dynamic, the number of steps is that of the example. The file is loaded, run on other inputs
    with another number of rows, and compared with the model, before it gets its name.

    Args:
        model: A map from inputs to outputs.
        example_BTI: Inputs of the shape to export for.
        output: The file.

    Returns:
        The largest difference from the model, relative to its largest output.

    Raises:
        UserError: for another ending, a missing directory or package, an operation that the exporter does not support,
            or outputs that differ from the model's.
        OSError: if the file cannot be written.
    """
    writers = {".pt2": _write_torch, ".onnx": _write_onnx}
    if output.suffix not in writers:
        raise UserError(f"output must end in .pt2 (torch.export) or .onnx, got '{output}'")
    if not output.parent.is_dir():
        raise UserError(f"the directory '{output.parent}' of output '{output}' does not exist")
    model = model.eval()
    example_BTI = example_BTI[:1].repeat(2, 1, 1)  # the exporter would make a batch of 1 a constant
    other_BTI = torch.rand_like(example_BTI).repeat(2, 1, 1)[:3]
    with replacing(output) as temporary, torch.no_grad():
        temporary.touch()  # raises an OSError, unlike torch and ONNX, if the file cannot be written
        program = writers[output.suffix](model, example_BTI, temporary)
        expected, found = model(other_BTI), program(other_BTI)
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= TOLERANCE:
            raise UserError(
                f"the exported program differs from the model by {error:.1e} of its largest output, more than "
                f"{TOLERANCE:.0e}. Nothing was written."
            )
    return error


def _write_torch(model: nn.Module, example_BTI: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(model, (example_BTI,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _write_onnx(model: nn.Module, example_BTI: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'momentum-rnn[onnx]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operations of packages that are not installed
    try:
        program = torch.onnx.export(
            model,
            (example_BTI,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["inputs"],
            output_names=["outputs"],
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"the ONNX exporter does not support this model ({reason}). Export to .pt2 instead.") from error
    assert program is not None  # with dynamo=True torch always returns a program
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    return lambda inputs: torch.as_tensor(session.run(None, {"inputs": inputs.numpy()})[0])
