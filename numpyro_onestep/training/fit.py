"""A whole fit outside of NumPyro's loop: base, training in jitted blocks, audit, one retry where mass is missing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from tqdm.auto import tqdm

from numpyro_onestep.base.conditional_scale import influence
from numpyro_onestep.base.search import extend
from numpyro_onestep.compilation import full_precision
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.state import OneStepState, check_dim, trained_flows
from numpyro_onestep.training import loop as train
from numpyro_onestep.trust.audit import audit
from numpyro_onestep.trust.coverage import Audit

__all__ = ["Fit", "fit"]

_NUM_BLOCKS = 20  # progress updates of one training; the host reads the state only between them


class Fit(NamedTuple):
    """The trained state, its audit where the kernel asks for one, and a key that nothing here has used."""

    state: OneStepState
    audit: Audit | None
    rng_key: Array


@full_precision
def fit(
    kernel: OneStep,
    rng_key: Array,
    num_warmup: int,
    init_params: Any,
    args: tuple,
    kwargs: dict[str, Any],
    progress_bar: bool,
    before: OneStepState | None = None,
) -> Fit:
    """Find the base, train, audit, and train once more from a base that holds what was missed.

    With the state `before` of a fit to other data of the same shape, its networks are trained on where they fit better
    than the base, which is found anew; a broad base, whose axes have no order, is kept as well.

    No retry where the base has conditional scales, which no mixture can keep, or is broad anyhow: it is only told.
    """
    # the first three are those of `start`
    key_audit, key_extend, key_train, key_again = random.split(rng_key, 7)[3:]
    key_left = random.fold_in(rng_key, 7)
    state: Any = kernel.start(rng_key, num_warmup, init_params, args, kwargs)
    if before is not None:
        state = _warm(kernel, random.split(rng_key, 7)[2], state, before, num_warmup, args, kwargs)
    state = _train(kernel, state, num_warmup, args, kwargs, progress_bar)
    if not kernel.coverage_audit:
        return Fit(state, None, key_left)
    found = _audit(kernel, state, key_audit, args, kwargs, progress_bar)
    if len(found.missing) and not bool(state.base.annealed) and not jnp.any(influence(state.base.whitening) > 0):
        regions = jax.tree.map(lambda leaf: leaf[found.missing], found.regions)
        base = extend(kernel.target(args, kwargs), key_extend, state.base, regions)
        again = state._replace(base=base, train=kernel.init_training(key_train, base, num_warmup, args, kwargs))
        again = _train(kernel, again, num_warmup, args, kwargs, progress_bar)
        found_again = _audit(kernel, again, key_again, args, kwargs, progress_bar)
        if found_again.share < 0.5 * found.share and not len(found_again.doubtful):
            state, found = again, found_again
    return Fit(state, found, key_left)


def _warm(
    kernel: OneStep, rng_key: Array, state: Any, before: Any, num_warmup: int, args: tuple, kwargs: dict[str, Any]
) -> Any:
    """An untrained state with the networks of another fit."""
    if jnp.ndim(before.base.annealed) > 0:  # of chains that trained their own
        before = trained_flows(before)[0]
    check_dim(before.base, kernel.setup.center)
    if bool(state.base.annealed) and bool(before.base.annealed):
        trained = kernel.init_training(rng_key, before.base, num_warmup, args, kwargs)
        state = state._replace(base=before.base, train=trained)
    problem = kernel.problem(state.base, args, kwargs)
    return state._replace(train=kernel.resume_training(state.train, before.train, problem))


def _audit(
    kernel: OneStep, state: Any, rng_key: Array, args: tuple, kwargs: dict[str, Any], progress_bar: bool
) -> Audit:
    """The audit, its time shown beside that of the training."""
    log_z = [float(value) for value in np.ravel(state.train.best_log_z)]
    with tqdm(total=1, desc="coverage audit", disable=not progress_bar) as bar:
        found = audit(kernel, kernel.flows(state, args, kwargs), log_z, rng_key, args, kwargs)
        bar.update()
    return found


def _train(
    kernel: OneStep, state: Any, num_warmup: int, args: tuple, kwargs: dict[str, Any], progress_bar: bool
) -> Any:
    """All iterations; the host only looks between blocks of them."""
    problem = kernel.problem(state.base, args, kwargs)
    block = -(-num_warmup // _NUM_BLOCKS)
    trained = state.train
    with tqdm(total=num_warmup, desc="training", disable=not progress_bar) as bar:
        while not bool(jnp.all(trained.done | (trained.iteration >= num_warmup))):
            trained = kernel.advance_training(trained, problem, block)
            bar.set_postfix_str(train.describe(trained), refresh=False)
            bar.update(int(jnp.max(trained.iteration)) - bar.n)
    return state._replace(train=trained)
