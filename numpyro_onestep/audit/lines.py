"""Long tails: how much mass there is along the coordinates' axes where the flow has next to none.

From a posterior draw along the axis of one coordinate the target is that coordinate's density given the others. What
the flow does not reach of its tail, averaged over draws and summed over coordinates, is the mass of all tails in which
one coordinate alone is far out. Where a tail is too long for the flow it is too long for tempered particles as well;
neither the weights nor the bounds of log Z see it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["NO_TAILS", "NUM_POINTS", "Tails", "measure"]

_FAR = 8.0  # times as far from a draw as half of its line's mass, from where the tail begins
_LEAST_MASS = 1e-7  # of a line, below which a point says nothing of a tail
_RISE = 1.0  # nats, of a density that is another mode's
_STEPS = 0.03 * 2.0 ** np.arange(16)  # on either side, in the coordinate's scales: up to a thousand of them
NUM_POINTS = 2 * len(_STEPS) + 1  # of a line


class Tails(NamedTuple):
    """What the flow does not reach of single coordinates' tails.

    Attributes:
        share: of all mass, at least (two standard errors below the estimate).
        point: where the most of it was found, shape (D,).
        num_gaps: points at which the flow's density was asked for.
    """

    share: float
    point: np.ndarray
    num_gaps: int = 0


NO_TAILS = Tails(0.0, np.zeros(0))


def measure(
    values: Callable[[np.ndarray], np.ndarray],
    gaps: Callable[[np.ndarray], np.ndarray],
    draws: np.ndarray,
    scales: np.ndarray,
    least: float,
    num: int,
) -> Tails:
    """Look along `num` lines, each through a draw, along the axes in turn, or along as many of them at random.

    Args:
        values: points (N, D) → log γ there, (N,).
        gaps: points (N, D) → log γ − log q there, (N,); asked only of what may be a tail, since it is expensive.
        draws: posterior draws, shape (N, D).
        scales: of the coordinates, shape (D,).
        least: log γ − log q from where a point is out of the flow's reach.
        num: lines.
    """
    dim, rng = draws.shape[1], np.random.default_rng(0)
    axes = np.arange(num) % dim if dim <= num else rng.choice(dim, num, replace=False)
    from_ = draws[rng.permutation(num) % len(draws)]
    offsets = np.concatenate([-_STEPS[::-1], [0.0], _STEPS])
    points = np.repeat(from_[:, None], NUM_POINTS, axis=1)
    points[np.arange(num), :, axes] += (offsets * scales[axes, None]).astype(draws.dtype)
    value = np.reshape(values(points.reshape(-1, dim)), (num, NUM_POINTS)).astype(float)
    value = np.where(np.isnan(value), -np.inf, value)
    width = np.abs(offsets) * np.log(2.0)
    width[len(_STEPS)] = 2 * _STEPS[0]
    mass = width * np.exp(value - np.max(value, axis=1, keepdims=True))
    mass = mass / np.sum(mass, axis=1, keepdims=True)
    from_within = np.argsort(np.abs(offsets), kind="stable")
    halves = np.argmax(np.cumsum(mass[:, from_within], axis=1) >= 0.5, axis=1)
    half = np.abs(offsets)[from_within][halves]
    far = np.abs(offsets) > _FAR * half[:, None]
    top = np.max(np.where(far, -np.inf, value), axis=1, keepdims=True)
    out = np.where(far & (mass > _LEAST_MASS) & _falls(np.where(far, value, top)), mass, 0.0)
    asked = out > 0
    if np.any(asked):
        out[asked] *= gaps(points[asked]) > least
    ratios = np.sum(out, axis=1)
    total = max(dim * (np.mean(ratios) - 2 * np.std(ratios) / num**0.5), 0.0)
    farthest = np.argmax(out.ravel())
    return Tails(float(total / (1 + total)), points.reshape(-1, dim)[farthest], int(np.sum(asked)))


def _falls(value: np.ndarray) -> np.ndarray:
    """Where the density has not risen again on the way from the middle of a line: beyond that is another mode."""
    middle = value.shape[1] // 2
    falls = np.ones(value.shape, bool)
    for outward in (slice(middle, None), slice(middle, None, -1)):
        lowest = np.minimum.accumulate(value[:, outward], axis=1)
        falls[:, outward] = np.logical_and.accumulate(value[:, outward] <= lowest + _RISE, axis=1)
    return falls
