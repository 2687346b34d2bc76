"""The BLAS that torch brings, for compiled code: the addresses of sgemm and dgemm.

torch's own library has them on x86, where it contains MKL. These symbols are no interface of torch, so scipy's, which
are documented, are the fallback.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

NAMES = {torch.float32: "sgemm", torch.float64: "dgemm"}


@functools.cache
def gemm_address(dtype: torch.dtype) -> int:
    """Return the address of the Fortran function for ``dtype``.

    Raises:
        OSError: if there is none.
    """
    library = torch_library()
    if library is not None:
        function = getattr(library, f"{NAMES[dtype]}_", None)
        address = ctypes.cast(function, ctypes.c_void_p).value if function is not None else None
        if address:
            return address
    try:
        from scipy.linalg import cython_blas
    except ImportError as error:
        raise OSError("torch's library has no BLAS symbols, and scipy is not installed") from error
    capsule = cython_blas.__pyx_capi__[NAMES[dtype]]
    pointer, name = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return int(pointer(capsule, name(capsule)))


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Compute products of the calling thread in one thread each; without MKL that is so in a thread of OpenMP."""
    set_threads = getattr(torch_library(), "MKL_Set_Num_Threads_Local", None)
    if set_threads is None:
        yield
        return
    before = set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


@functools.cache
def torch_library() -> ctypes.CDLL | None:
    """Return torch's own library; it also finds the functions of those that this one needs."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None
