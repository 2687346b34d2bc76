"""The oracle of the cells: loops over time in float64 numpy, in gate space, written from the equations alone.

The loops accept complex numbers. A derivative along d is then Im f(x + i eps d) / eps, without the rounding of a
difference (the complex step). Functions that are not analytic branch on the real part. The loops also accept leading
axes, so that many directions d are computed at once: x (..., B, T, I), weights (..., G, I), states (..., B, C).

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, ... directions.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Numbers:
    """The coefficients of a drive. momentum and step_size may be arrays that broadcast to (..., B, G)."""

    momentum: float | np.ndarray = 0.0
    step_size: float | np.ndarray = 1.0
    beta: float = 0.0
    delta: float = 0.0
    delta_in_root: bool = True
    restart_period: int = 1
    sign: int = 1
    lag: float = 1.0
    gate: tuple = ()


def run(drive, core, numbers, weights, x, state):
    """Return outputs (..., B, T, H) and the last state.

    Args:
        drive: "", Momentum, GatedMomentum, SR, RMSProp, Adam or Nesterov.
        core: RNN, LSTM, GRU, JANET, URLSTM, URGRU, UnitaryRNN, or a name with an orthogonal weight (DTRIV, ExpRNN,
            CayleyRNN, HouseholderRNN).
        numbers: The Numbers of the drive.
        weights: W, U, b_ih, b_hh, and modrelu_bias for an orthogonal or unitary core.
        x: (..., B, T, I).
        state: h (and c for the LSTM), and what the drive needs: v; m; p and m; y; with k where there is a schedule.
    """
    state = dict(state)
    outputs = []
    for t in range(x.shape[-2]):
        a = _linear(x[..., t, :], weights["W"], weights["b_ih"])
        if drive == "GatedMomentum":
            w, b = numbers.gate
            numbers.momentum = _sigmoid((x[..., t, :] * w[..., None, :]).sum(-1, keepdims=True) + b[..., None, :])
        u = _linear(state["h"], weights["U"], weights["b_hh"])
        if drive == "Nesterov":
            z = _nesterov(core, numbers, a, u, state)
        else:
            z = _combine(core, _drive(drive, numbers, a, state), u)
        state["h"] = _core(core, numbers, weights, z, state)
        outputs.append(state["h"])
    return np.stack(outputs, -2), state


def _drive(drive, n, a, state):
    if drive == "":
        return a
    if drive in ("Momentum", "GatedMomentum"):
        state["v"] = n.momentum * state["v"] + n.step_size * a
        return state["v"]
    if drive == "SR":
        k = state["k"] = state["k"] % n.restart_period + 1
        state["v"] = ((k - 1) / (k + 2))[:, None] * state["v"] + n.step_size * a
        return state["v"]
    state["m"] = n.beta * state["m"] + (1 - n.beta) * a * a
    root = _sqrt(state["m"] + n.delta) if n.delta_in_root else _sqrt(state["m"]) + n.delta
    if drive == "RMSProp":
        return n.step_size * a / root
    assert drive == "Adam"
    state["p"] = n.momentum * state["p"] + n.step_size * a
    return state["p"] / root


def _nesterov(core, n, a, u, state):
    k = state["k"] = state["k"] % n.restart_period + 1
    before, state["y"] = state["y"], _combine(core, n.sign * n.step_size * a, u)
    return state["y"] + ((k - 1) / (k + 2))[:, None] * (state["y"] - before)


def _combine(core, v, u):
    """Return the input of the core: v + u. For GRUs the last block of both is kept apart."""
    if core not in ("GRU", "URGRU"):
        return v + u
    H = v.shape[-1] // (3 if core == "GRU" else 4)
    return np.concatenate([(v + u)[..., :-H], v[..., -H:], u[..., -H:]], -1)


def _core(core, numbers, weights, z, state):
    if core == "RNN":
        return np.tanh(z)
    if core == "LSTM":
        i, f, g, o = np.split(z, 4, -1)
        state["c"] = _sigmoid(f) * state["c"] + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(state["c"])
    if core == "GRU":
        r, update, n_x, n_h = np.split(z, 4, -1)
        update = _sigmoid(update)
        return (1 - update) * np.tanh(n_x + _sigmoid(r) * n_h) + update * state["h"]
    if core == "JANET":
        f, g = np.split(z, 2, -1)
        return _sigmoid(f) * state["h"] + (1 - _sigmoid(f - numbers.lag)) * np.tanh(g)
    if core == "URLSTM":
        f, r, p, o = np.split(z, 4, -1)
        g = _refined(f, r)
        state["c"] = g * state["c"] + (1 - g) * np.tanh(p)
        return _sigmoid(o) * np.tanh(state["c"])
    if core == "URGRU":
        f, r, s, n_x, n_h = np.split(z, 5, -1)
        g = _refined(f, r)
        return (1 - g) * np.tanh(n_x + _sigmoid(s) * n_h) + g * state["h"]
    if core == "UnitaryRNN":
        real, imaginary = np.split(z, 2, -1)
        size = np.sqrt(real * real + imaginary * imaginary)
        gain = 1 + weights["modrelu_bias"][..., None, :] / size
        return np.where(gain.real > 0, gain, 0)[..., None, :].repeat(2, -2).reshape(z.shape) * z
    sign = np.sign(z.real)
    size = z * sign + weights["modrelu_bias"][..., None, :]
    return sign * np.where(size.real > 0, size, 0)


def orthogonal(core, base, skew):
    """Return U = map(A) base; A of shape (..., H, H) has the entries of ``skew`` (..., H(H-1)/2) below the diagonal."""
    H = base.shape[-1]
    A = np.zeros((*skew.shape[:-1], H, H), skew.dtype)
    rows, columns = np.nonzero(np.tri(H, k=-1))
    A[..., rows, columns] = skew
    A[..., columns, rows] = -skew
    eye = np.eye(H)
    if core == "CayleyRNN":
        return (eye + A / 2) @ np.linalg.inv(eye - A / 2) @ base
    return _exp(A) @ base


def unitary(numbers):
    """Return [[P, -Q], [Q, P]] for P + i Q = exp(A), A skew-Hermitian.

    ``numbers`` (..., N, N) hold the real parts of A below the diagonal, and its imaginary parts on it and above.
    """
    below, above = np.tril(numbers, -1), np.triu(numbers, 1)
    diagonal = numbers * np.eye(numbers.shape[-1])
    real, imaginary = below - np.swapaxes(below, -1, -2), above + np.swapaxes(above, -1, -2) + diagonal
    rows = np.concatenate([real, -imaginary], -1), np.concatenate([imaginary, real], -1)
    return _exp(np.concatenate(rows, -2))


def reflections(vectors, H, R):
    """Return the product of R reflections, whose vectors fill the lower triangle of (H, R) in rows."""
    rows, columns = np.nonzero(np.tri(H, R))
    W = np.zeros((*vectors.shape[:-1], H, R), vectors.dtype)
    W[..., rows, columns] = vectors
    U = np.eye(H)
    for r in range(R):
        w = W[..., r]
        U = U @ (np.eye(H) - 2 * w[..., :, None] * w[..., None, :] / (w * w).sum(-1)[..., None, None])
    return U


def _exp(A):
    halvings = max(0, int(np.ceil(np.log2(max(1e-9, np.abs(A).sum(-1).max())))) + 4)
    power = term = np.broadcast_to(np.eye(A.shape[-1]), A.shape)
    for n in range(1, 16):
        term = term @ A / 2**halvings / n
        power = power + term
    for _ in range(halvings):
        power = power @ power
    return power


def _refined(f, r):
    f, r = _sigmoid(f), _sigmoid(r)
    return 2 * r * f + (1 - 2 * r) * f * f


def sigmoid(raw):
    return _sigmoid(raw)


def softplus(raw):
    return np.log(1 + np.exp(raw))


def _linear(x, weight, bias):
    y = x @ np.swapaxes(weight, -1, -2)
    return y if bias is None else y + bias[..., None, :]


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _sqrt(m):
    zero = m == 0
    return np.where(zero, 0, np.sqrt(np.where(zero, 1, m)))
