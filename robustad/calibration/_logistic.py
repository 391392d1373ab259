"""Logistic regression on a few variables, to soft targets."""

import numpy as np

from robustad.errors import InputError
from robustad.metrics._checks import FloatArray

MAX_STEPS = 200
# Values looked at together: a block's intermediate results stay in the cache.
BLOCK = 1 << 14
# From so many values on, the fit starts at that to a part of them.
LARGE = 1 << 17


def fit_logistic(
    design: FloatArray, target: FloatArray, weight: FloatArray | None = None
) -> FloatArray:
    """Minimise the cross entropy of sigmoid(coefficients @ design) to soft targets.

    Damped Newton steps: plain ones get there in about 5, on extreme tails 12; the damping shortens
    a step that would climb.

    Parameters
    ----------
    design : array, (k, n), float64
        Variables of about unit size, a row of ones among them for an intercept.
    target : array, (n,), float64
        Inside (0, 1), so that the minimum is finite.
    weight : array, (n,), float64, optional
        Positive; how often each column counts.

    Returns
    -------
    array, (k,), float64
        The coefficients.

    Raises
    ------
    InputError
        If it does not converge.
    """
    size = target.size
    total = float(size if weight is None else weight.sum())
    params = _start(design, target, weight)
    loss, gradient, curvature = _derivatives(params, design, target, weight)
    damping = 0.0
    for _ in range(MAX_STEPS):
        scale = max(float(np.trace(curvature)), np.finfo(np.float64).tiny)
        ridge = (damping + 1e-14) * scale * np.eye(params.size)
        step = np.linalg.solve(curvature + ridge, gradient)
        decrement = float(gradient @ step)
        new = _derivatives(params - step, design, target, weight)
        # At the minimum the loss is flat to rounding: take steps that do not visibly climb.
        if new[0] <= loss * (1.0 + 1e-14):
            params, loss = params - step, min(loss, new[0])
            gradient, curvature = new[1:]
            damping = 0.0 if damping < 1e-6 else damping / 10.0
            if decrement <= 1e-22 * total:
                return params
        else:
            damping = max(damping * 10.0, 1e-3)
    raise InputError(
        f"scores: the logistic fit did not converge in {MAX_STEPS} steps on {size} values"
    )


def _start(design: FloatArray, target: FloatArray, weight: FloatArray | None) -> FloatArray:
    """Zero, or the fit to every so many-th value: the last steps are the same from either."""
    if target.size >= LARGE:
        part = slice(None, None, target.size // (LARGE // 8))
        try:
            return fit_logistic(
                np.ascontiguousarray(design[:, part]),
                np.ascontiguousarray(target[part]),
                None if weight is None else np.ascontiguousarray(weight[part]),
            )
        except InputError:
            pass
    return np.zeros(design.shape[0])


def _derivatives(
    params: FloatArray, design: FloatArray, target: FloatArray, weight: FloatArray | None
) -> tuple[float, FloatArray, FloatArray]:
    """Loss, gradient (k,) and curvature (k, k), by one exponential a value."""
    loss = 0.0
    gradient = np.zeros(params.size)
    curvature = np.zeros((params.size, params.size))
    for first in range(0, target.size, BLOCK):
        block = slice(first, first + BLOCK)
        rows, wanted = design[:, block], target[block]
        logits = params @ rows
        small = np.exp(-np.abs(logits))
        rest = 1.0 / (1.0 + small)
        p = np.where(logits >= 0.0, rest, small * rest)
        each = np.maximum(logits, 0.0) - wanted * logits + np.log1p(small)
        residual, bend = p - wanted, small * rest * rest
        if weight is not None:
            counts = weight[block]
            each, residual, bend = each * counts, residual * counts, bend * counts
        loss += float(each.sum())
        gradient += rows @ residual
        curvature += (rows * bend) @ rows.T
    return loss, gradient, curvature
