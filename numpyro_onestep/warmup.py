"""All that a run does before its draws: base, training, audit, and once more where mass is missing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from tqdm.auto import tqdm

from numpyro_onestep.base import search
from numpyro_onestep.base.conditional_scale import influence
from numpyro_onestep.base.distribution import Base, beside
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.compilation import fold_in, full_precision, split
from numpyro_onestep.devices import on_all, on_one
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.model.target import Target
from numpyro_onestep.state import OneStepState, check_dim, trained_flows
from numpyro_onestep.training import fit as training
from numpyro_onestep.training.fit import fit, start
from numpyro_onestep.training.plan import Plan
from numpyro_onestep.training.state import TrainState, separate
from numpyro_onestep.trust import coverage
from numpyro_onestep.trust.audit import audit
from numpyro_onestep.trust.coverage import Audit

__all__ = ["Warmup", "warmup"]

_EARLY = 0.1  # share of the iterations after which the weights tell something of those at the end


class Warmup(NamedTuple):
    """What warmup leaves.

    Attributes:
        base: the base.
        trained: the training state on it.
        audit: the audit, where one was asked for.
        num_gradients: target gradients that all of it took, a plain evaluation counted as one.
        rng_key: a key that nothing here has used.
    """

    base: Base
    trained: TrainState
    audit: Audit | None
    num_gradients: int
    rng_key: Array


@full_precision
def warmup(
    rng_key: Array,
    target: Target,
    dim: int,
    marginal: Target,
    start_at: Array,
    plan: Plan,
    num_warmup: int,
    *,
    init_scale: float,
    num_steps: int,
    coverage_audit: bool,
    progress_bar: bool,
    mesh: Mesh | None = None,
    before: OneStepState | None = None,
    expect: Callable[[Callable[[], Flow], float], None] | None = None,
) -> Warmup:
    """Find the base, train, audit, and train once more from a base that holds what was missed.

    With the state `before` of a run on other data of the same shape, its networks are trained on where they fit better
    than the base, which is found anew; a broad base, whose axes have no order, is kept as well.

    No retry where the base has conditional scales, which no mixture can keep, or is broad anyhow: it is only told.

    Args:
        rng_key: random key; the first of its three parts is for the look at the model.
        target: log γ on the flat unconstrained vector.
        dim: its dimension D.
        marginal: the same, or that with the last coordinates integrated out, which are standard normal to begin with.
        start_at: a valid point of it, shape (D,) or less.
        plan: how to train.
        num_warmup: training iterations.
        init_scale: spread of the starts around the center.
        num_steps: network evaluations per draw.
        coverage_audit: whether to look for mass that the flow does not reach.
        progress_bar: whether to show progress.
        mesh: of the devices that train, in a row; None for one.
        before: the state of an earlier run, for a warm start.
        expect: is told of the flow to come, as soon as its shapes are known and again when it is trained, and of the
            share of effective draws as far as that is known, 1 at first.

    Raises:
        ValueError: if `num_warmup` is 0, the density is finite at none of the starts, or `before` has another
            dimension.
    """
    if num_warmup == 0:
        raise ValueError(
            "num_warmup=0 leaves the flow untrained: use num_warmup ≥ 1 (1000 gives the full quality), or set "
            "`post_warmup_state` to the `last_state` of an earlier run."
        )
    _, key_base, key_first, key_audit, key_extend, key_train, key_again, _ = split(rng_key)
    spent: list[int] = []

    def expect_flow(base: Base) -> None:
        """Compile what comes after the search for a base of these shapes."""
        base = jax.eval_shape(lambda base: beside(base, dim - base.dim), base)
        problem = Problem(on_all(mesh, base), target)
        network = training.expect(key_first, problem, plan, num_warmup)
        if coverage_audit:
            coverage.expect(target, key_audit, problem.base, network, num_steps)
        if expect is not None:
            expect(lambda: Flow(network(), problem), 1.0)

    with tqdm(total=1, desc="base search", disable=not progress_bar) as bar:
        base = search.search(marginal, init_scale, key_base, start_at, spent, expect_flow)
        base = on_all(mesh, beside(base, dim - base.dim))
        bar.update()
    networks = None
    if before is not None:
        earlier: Any = before if jnp.ndim(before.base.annealed) == 0 else trained_flows(before)[0]  # type: ignore
        check_dim(earlier.base, dim)
        networks = earlier.train.best
        base = on_all(mesh, earlier.base) if bool(base.annealed) and bool(earlier.base.annealed) else base

    def train(key: Array, base: Base, networks: StepNetwork | None = None) -> TrainState:
        problem = Problem(base, target)
        told = expect is None

        def watch(trained: TrainState) -> None:
            """Tell once how good the flow is, for what its draws will need."""
            nonlocal told
            state = separate(trained)[0]
            if not told and (bool(state.done) or int(state.iteration) >= _EARLY * num_warmup):
                told = True
                expect(lambda: Flow(state.best, problem), float(state.ess_fraction))  # type: ignore[misc]

        trained = fit(start(key, problem, plan, num_warmup), problem, plan, progress_bar, networks, watch)
        spent.append(int(np.sum(np.asarray(trained.num_gradients))))
        return trained

    def look(key: Array, base: Base, trained: TrainState) -> Audit:
        """The audit, its time shown beside that of the training."""
        each = separate(trained)
        flows = [Flow(one.best, Problem(base, target)) for one in each]
        with tqdm(total=1, desc="coverage audit", disable=not progress_bar) as bar:
            found = audit(key, flows, num_steps, init_scale, [float(one.best_log_z) for one in each])
            bar.update()
        spent.append(found.num_gradients)
        return found

    trained = train(key_first, base, networks)
    key_left = fold_in(rng_key, 7)
    if not coverage_audit:
        return Warmup(on_one(base), on_one(trained), None, sum(spent), key_left)
    found = look(key_audit, base, trained)
    if (
        len(found.missing)
        and not bool(base.annealed)
        and not np.any(influence(jax.tree.map(np.asarray, base.whitening)) > 0)
    ):
        regions = jax.tree.map(lambda leaf: leaf[found.missing], found.regions)
        wider = on_all(mesh, search.extend(target, key_extend, on_one(base), regions, spent))
        again = train(key_train, wider)
        found_again = look(key_again, wider, again)
        if found_again.share < 0.5 * found.share and not len(found_again.doubtful):
            base, trained, found = wider, again, found_again
    return Warmup(on_one(base), on_one(trained), found, sum(spent), key_left)
