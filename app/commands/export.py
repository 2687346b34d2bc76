"""Trained models as programs for other software, checked against the model when they are written.

Shapes: B batch, T time, I input_size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from app.errors import UserError
from datamodules.files import replacing

TOLERANCE = 1e-4  # relative to the largest output: another runtime adds up in another order, in float32


def export(model: nn.Module, example_BTI: Tensor, output: Path) -> float:
    """Write ``model`` as a torch.export program (``.pt2``) or as ONNX (``.onnx``).

    The number of rows stays free, the number of steps is that of the example. The file is loaded again, run on other
    inputs with another number of rows, and compared with the model, before it takes its place.

    Args:
        model: What maps inputs to outputs.
        example_BTI: Inputs of the shape to export for.
        output: File to write.

    Returns:
        The largest difference from the model, relative to its largest output.

    Raises:
        UserError: for another ending of the file, where the packages for ONNX are missing or the exporter does not know
            an operation of the model, or if the file's outputs are not the model's.
    """
    writers = {".pt2": _write_torch, ".onnx": _write_onnx}
    if output.suffix not in writers:
        raise UserError(f"output is '{output}'; a file that ends in .pt2 (torch.export) or .onnx is expected")
    model = model.eval()
    example_BTI = example_BTI[:1].repeat(2, 1, 1)  # a batch of 1 would be taken for a constant
    other_BTI = torch.rand_like(example_BTI).repeat(2, 1, 1)[:3]
    with replacing(output) as temporary, torch.no_grad():
        run = writers[output.suffix](model, example_BTI, temporary)
        expected, found = model(other_BTI), run(other_BTI)
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= TOLERANCE:
            raise UserError(
                f"the exported program differs from the model by {error:.1e} of its largest output, more than "
                f"{TOLERANCE:.0e}; nothing was written"
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
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports operations of absent packages
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
        raise UserError(f"the ONNX exporter cannot handle this model ({reason}); export to .pt2 instead") from error
    assert program is not None  # with dynamo=True there is always a program
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    return lambda inputs: torch.as_tensor(session.run(None, {"inputs": inputs.numpy()})[0])
