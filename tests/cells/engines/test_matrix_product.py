"""Compiled matrix products against numpy in float64, with the registers of several processors."""

import ctypes

import numpy as np
import pytest
import torch

from cells.engines.fused.matrix_product import DEPTH, MatrixProducts, Registers

KINDS = {
    "float32, AVX-512": (torch.float32, Registers(512, 32)),
    "float32, AVX2": (torch.float32, Registers(256, 16)),
    "float32, NEON": (torch.float32, Registers(128, 32)),
    "float64, SSE": (torch.float64, Registers(128, 16)),
    "float64": (torch.float64, Registers.of_this_processor()),
}
SIZES = [
    (1, 1, 1),
    (3, 7, 5),
    (16, 158, 632),
    (14, DEPTH, 32),
    (15, DEPTH + 1, 33),
    (29, 2 * DEPTH + 3, 64),
    (64, 1, 31),
]


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def products(request):
    return MatrixProducts(*request.param)


@pytest.fixture
def dtype(products):
    return products.dtype


def random(dtype, *shape):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def call(address, *arguments):
    values = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(values))(address)(*values)


def as_float64(*tensors):
    return [tensor.double().numpy() for tensor in tensors]


def check(C, expected, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(C.double().numpy(), expected, rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("add", [0, 1])
def test_product(products, dtype, m, k, n, add):
    A, B, C = random(dtype, m, k + 2), random(dtype, k + 1, n), random(dtype, m + 1, n)  # a part of A and of B
    before, packed = C.clone(), products.pack(B)
    call(products.product, add, m, n, k, A, A.stride(0), packed, packed.stride(0), C)
    a, b, c = as_float64(A[:, :k], B[:k], before[:m])
    check(C[:m], a @ b + add * c, dtype)
    assert torch.equal(C[m:], before[m:])


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("add", [0, 1])
def test_transposed_product(products, dtype, m, k, n, add):
    A, B, C = random(dtype, k, m + 2), random(dtype, k, n), random(dtype, m + 1, n)
    before = C.clone()
    call(products.transposed_product, add, m, n, k, A, A.stride(0), B, B.stride(0), C)
    a, b, c = as_float64(A[:, :m], B, before[:m])
    check(C[:m], a.T @ b + add * c, dtype)
    assert torch.equal(C[m:], before[m:])


def test_what_c_holds_is_not_read_unless_it_is_added_to(products, dtype):
    A, B, C = random(dtype, 3, 2 * DEPTH), random(dtype, 2 * DEPTH, 5), random(dtype, 3, 5).fill_(float("nan"))
    packed = products.pack(B)
    call(products.product, 0, 3, 5, 2 * DEPTH, A, A.stride(0), packed, packed.stride(0), C)
    a, b = as_float64(A, B)
    check(C, a @ b, dtype)
