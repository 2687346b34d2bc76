"""Every cell once more: loops over time in float64 numpy, in gate space, written from the equations alone.

The loops take complex numbers, so that a derivative is Im f(x + i eps d) / eps without any rounding of a difference
(the complex step); what is not analytic branches on the real part. They also take leading axes, so that many
directions d run at once: x (..., B, T, I), weights (..., G, I) and so on, states (..., B, C).

Shapes: B batch, T time, I input_size, H hidden_size, G = gates x H, ... directions.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Numbers:
    """The numbers of a drive; momentum and step_size may be arrays that broadcast to (..., B, G)."""

    momentum: float | np.ndarray = 0.0
    step_size: float | np.ndarray = 1.0
    beta: float = 0.0
    delta: float = 0.0
    delta_in_root: bool = True
    restart_period: int = 1
    sign: int = 1


def run(drive, core, numbers, weights, x, state):
    """Outputs (..., B, T, H) and the last state.

    Args:
        drive: "", Momentum, SR, RMSProp, Adam or Nesterov.
        core: RNN, LSTM, GRU, or a name with an orthogonal weight (DTRIV, ExpRNN, CayleyRNN).
        numbers: The Numbers of the drive.
        weights: W, U, b_ih, b_hh, and modrelu_bias for an orthogonal core.
        x: (..., B, T, I).
        state: h (and c for the LSTM), and what the drive needs: v; m; p and m; y; with k where there is a schedule.
    """
    state = dict(state)
    outputs = []
    for t in range(x.shape[-2]):
        a = _linear(x[..., t, :], weights["W"], weights["b_ih"])
        u = _linear(state["h"], weights["U"], weights["b_hh"])
        if drive == "Nesterov":
            z = _nesterov(core, numbers, a, u, state)
        else:
            z = _combine(core, _drive(drive, numbers, a, state), u)
        state["h"] = _core(core, weights, z, state)
        outputs.append(state["h"])
    return np.stack(outputs, -2), state


def _drive(drive, n, a, state):
    if drive == "":
        return a
    if drive == "Momentum":
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
    """What the core gets of both: the sum, but for the GRU, whose third block is kept apart."""
    if core != "GRU":
        return v + u
    v_r, v_z, v_n = np.split(v, 3, -1)
    u_r, u_z, u_n = np.split(u, 3, -1)
    return np.concatenate([v_r + u_r, v_z + u_z, v_n, u_n], -1)


def _core(core, weights, z, state):
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
    sign = np.sign(z.real)
    size = z * sign + weights["modrelu_bias"][..., None, :]
    return sign * np.where(size.real > 0, size, 0)


def orthogonal(core, base, skew):
    """U = base map(A) for A of shape (..., H, H) with the entries of ``skew`` (..., H(H-1)/2) below its diagonal."""
    H = base.shape[-1]
    A = np.zeros((*skew.shape[:-1], H, H), skew.dtype)
    rows, columns = np.nonzero(np.tri(H, k=-1))
    A[..., rows, columns] = skew
    A[..., columns, rows] = -skew
    eye = np.eye(H)
    if core == "CayleyRNN":
        return base @ (eye + A / 2) @ np.linalg.inv(eye - A / 2)
    halvings = max(0, int(np.ceil(np.log2(max(1e-9, np.abs(A).sum(-1).max())))) + 4)
    power = term = np.broadcast_to(eye, A.shape)
    for n in range(1, 16):
        term = term @ A / 2**halvings / n
        power = power + term
    for _ in range(halvings):
        power = power @ power
    return base @ power


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
