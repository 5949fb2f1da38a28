"""Fresh draws of a finished run, as many as one likes: all at once or as a stream, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from numpyro_onestep import options
from numpyro_onestep.devices import FOR_DRAWS
from numpyro_onestep.draws import proposal
from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.results.samples import over_points
from numpyro_onestep.run import Run
from numpyro_onestep.threads import one_blas_thread

__all__ = ["Draws", "stream"]

_MAX_NUMBERS = 2**24  # of all draws that are made at once, on the device and on their way from there


class Draws(NamedTuple):
    """Fresh draws: constrained samples with a leading axis of draws, and their log weights (nats, unnormalised).

    NumPy arrays on the host.
    """

    samples: Any
    log_weights: np.ndarray


def stream(
    run: Run,
    constrainer: Callable[[], ModelFunction],
    rng_key: Array,
    num_draws: int,
    num_steps: int | None,
    chunk: int,
) -> Iterator[Draws]:
    """Fresh draws of a run's flows, `chunk` at a time: the same draws whatever `chunk` is.

    They are made on the device some millions of numbers at a time, so that memory holds one chunk and little more.

    Raises:
        TypeError: if a count is no integer, or the key no key.
        ValueError: if a count is out of range, or a chunk does not fit into memory.
    """
    options.check_key(rng_key)
    num_draws, chunk = options.whole("num_draws", num_draws), options.whole("chunk", chunk)
    num_steps = run.kernel.num_steps if num_steps is None else check_num_steps(num_steps)
    options.check_room(min(num_draws, chunk), run.setup.center.nbytes)
    flows, constrain = run.flows(FOR_DRAWS), constrainer()
    base = flows[0].problem.base
    shown = jax.eval_shape(constrain, jax.ShapeDtypeStruct((base.dim,), base.dtype))
    at_once = _MAX_NUMBERS // (2 * base.dim + sum(leaf.size for leaf in jax.tree.leaves(shown)))
    made = proposal.stream(flows, rng_key, num_draws, num_steps, min(chunk, at_once))

    def to_host() -> Iterator[Draws]:
        while True:
            with one_blas_thread():  # not while the caller has the turn
                proposals = next(made, None)
                if proposals is None:
                    return
                drawn = Draws(over_points(constrain, proposals.points), proposals.log_weights)  # type: ignore[arg-type]
                drawn = jax.tree.map(np.asarray, drawn)
            yield drawn

    return _cut(to_host(), num_draws, chunk)


def _cut(parts: Iterable[Draws], num_draws: int, chunk: int) -> Iterator[Draws]:
    """The first `num_draws` of the parts together, as arrays of `chunk` draws each; the last one may be shorter."""
    left, filled = num_draws, 0
    draws: Any = None
    for part in parts:
        start, end = 0, min(len(part.log_weights), left)
        while start < end:
            if filled == 0:
                size = min(chunk, left)
                draws = jax.tree.map(lambda leaf, n=size: np.empty((n, *leaf.shape[1:]), leaf.dtype), part)
            num = min(len(draws.log_weights) - filled, end - start)
            for whole, leaf in zip(*map(jax.tree.leaves, (draws, part)), strict=True):
                whole[filled : filled + num] = leaf[start : start + num]
            start, filled, left = start + num, filled + num, left - num
            if filled == len(draws.log_weights):
                yield draws
                filled = 0
