"""All that a run does before its draws: base, training, audit, and once more where mass is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from tqdm.auto import tqdm

from numpyro_onestep.audit import coverage
from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.audit.report import audit
from numpyro_onestep.base import search
from numpyro_onestep.base.distribution import Base, beside
from numpyro_onestep.base.modes import num_drawn
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.compilation import fold_in, full_precision, split
from numpyro_onestep.devices import on_all, on_one
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.journal import open_journal
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.state import OneStepState, check_dim, trained_flows
from numpyro_onestep.training import fit as training
from numpyro_onestep.training.evaluation import History
from numpyro_onestep.training.fit import fit, start
from numpyro_onestep.training.plan import Plan
from numpyro_onestep.training.state import TrainState, separate

__all__ = ["Warmup", "warmup"]

_EARLY = 0.1  # share of the iterations after which the weights tell something of those at the end


class Warmup(NamedTuple):
    """What warmup leaves.

    Attributes:
        base: the base.
        trained: the training state on it.
        history: the evaluations of that training.
        audit: the audit, where one was asked for.
        num_gradients: target gradients that all of it took, a plain evaluation counted as one.
        rng_key: a key that nothing here has used.
    """

    base: Base
    trained: TrainState
    history: History
    audit: Audit | None
    num_gradients: int
    rng_key: Array


class _Found(NamedTuple):
    """A base, and the target gradients that it took."""

    base: Base
    num_gradients: int


@full_precision
def warmup(
    rng_key: Array,
    setup: ModelSetup,
    given: tuple[tuple, dict[str, Any]],
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
    checkpoint: str | Path | None = None,
) -> Warmup:
    """Find the base, train, audit, and train once more from a base that holds what was missed.

    With the state `before` of a run on other data of the same shape, its networks are trained on where they fit better
    than the base, which is found anew; a broad base, whose axes have no order, is kept as well.

    No retry where a wider base could not keep what this one has (`search.extends`): it is only told.

    Args:
        rng_key: random key; the first of its three parts is for the look at the model.
        setup: what is known of the model, in the coordinates to train in.
        given: its positional and keyword arguments.
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
        checkpoint: file of what was finished before an interruption, and where to keep what is finished now.

    Raises:
        ValueError: if `num_warmup` is 0, the density is finite at none of the starts, `before` has another
            dimension, or the checkpoint is damaged or of another run.
    """
    if num_warmup == 0:
        raise ValueError(
            "num_warmup=0 leaves the flow untrained: use num_warmup ≥ 1 (1000 gives the full quality), or set "
            "`post_warmup_state` to the `last_state` of an earlier run."
        )
    _, key_base, key_first, key_audit, key_extend, key_train, key_again, _ = split(rng_key)
    target, dim = setup.target(*given), setup.dim
    options = {"init_scale": init_scale, "num_steps": num_steps, "coverage_audit": coverage_audit}
    options |= {"plan": plan, "num_warmup": num_warmup}
    in_search, in_audit = search.num_drawn(setup.work), num_drawn(setup.work)
    drawn = setup.draw_prior(fold_in(rng_key, 8), in_search + in_audit, *given)
    for_search, for_audit = (None, None) if drawn is None else np.split(drawn, [in_search])
    journal = open_journal(checkpoint, rng_key, setup, given, options, before)

    expected: list[Base] = []

    def expect_flow(base: Base) -> None:
        """Compile what comes after the search for a base of these shapes, once."""
        base = jax.eval_shape(lambda base: beside(base, dim - base.dim), base)
        if base in expected:
            return
        expected.append(base)
        problem = Problem(on_all(mesh, base), target)
        network = training.expect(key_first, problem, plan, num_warmup)
        if coverage_audit:
            coverage.expect(target, key_audit, problem.base, network, num_steps)
        if expect is not None:
            expect(lambda: Flow(network(), problem), 1.0)

    def find() -> _Found:
        spent: list[int] = []
        with tqdm(total=1, desc="base search", disable=not progress_bar) as bar:
            base = search.search_model(setup, given, init_scale, key_base, for_search, spent, expect_flow)
            bar.update()
        expect_flow(base)  # nothing again where the search announced these shapes
        return _Found(base, sum(spent))

    base, num_gradients = journal.stage("base", _Found, find)
    base = on_all(mesh, base)
    networks = None
    if before is not None:
        earlier: Any = before if jnp.ndim(before.base.annealed) == 0 else trained_flows(before)[0]  # type: ignore
        check_dim(earlier.base, dim)
        networks = earlier.train.best
        base = on_all(mesh, earlier.base) if bool(base.annealed) and bool(earlier.base.annealed) else base

    def train(name: str, key: Array, base: Base, networks: StepNetwork | None = None) -> tuple[TrainState, History]:
        problem = Problem(base, target)
        begun, history = journal.resumed(name, start(key, problem, plan, num_warmup))
        told, latest = expect is None, begun

        def watch(trained: TrainState) -> None:
            """Keep state and evaluation, and tell once how good the flow is, for what its draws will need."""
            nonlocal told, latest
            latest = trained
            history.add(trained)
            journal.keep(name, trained, history)
            state = separate(trained)[0]
            if not told and (bool(state.done) or int(state.iteration) >= _EARLY * num_warmup):
                told = True
                expect(lambda: Flow(state.best, problem), float(state.ess_fraction))  # type: ignore[misc]

        try:
            trained = fit(begun, problem, plan, progress_bar, None if journal.has(name) else networks, watch)
        except KeyboardInterrupt:
            if latest is not begun:
                journal.keep(name, latest, history, finished=True)
            raise
        if trained is not begun or not journal.has(name):
            history.add(trained)
            journal.keep(name, trained, history, finished=True)
        return trained, history

    def look(name: str, key: Array, base: Base, trained: TrainState) -> Audit:
        """The audit, its time shown beside that of the training."""

        def audited() -> Audit:
            each = separate(trained)
            flows = [Flow(one.best, Problem(base, target)) for one in each]
            with tqdm(total=1, desc="coverage audit", disable=not progress_bar) as bar:
                log_z = [float(one.best_log_z) for one in each]
                found = audit(key, flows, num_steps, init_scale, log_z, for_audit)
                bar.update()
            return found

        return journal.stage(name, Audit, audited, np.asarray)

    trained, history = train("training", key_first, base, networks)
    num_gradients += _num_gradients(trained)
    key_left = fold_in(rng_key, 7)
    if not coverage_audit:
        return Warmup(on_one(base), on_one(trained), history, None, num_gradients, key_left)
    found = look("audit", key_audit, base, trained)
    num_gradients += found.num_gradients
    if len(found.missing) and search.extends(base):

        def extend() -> _Found:
            spent: list[int] = []
            regions = jax.tree.map(lambda leaf: leaf[found.missing], found.regions)
            return _Found(search.extend(target, key_extend, on_one(base), regions, spent), sum(spent))

        wider, cost = journal.stage("wider base", _Found, extend)
        wider = on_all(mesh, wider)
        again, history_again = train("training again", key_train, wider)
        found_again = look("audit again", key_again, wider, again)
        num_gradients += cost + _num_gradients(again) + found_again.num_gradients
        if found_again.share < 0.5 * found.share and not len(found_again.doubtful):
            base, trained, history, found = wider, again, history_again, found_again
    return Warmup(on_one(base), on_one(trained), history, found, num_gradients, key_left)


def _num_gradients(trained: TrainState) -> int:
    return int(np.sum(np.asarray(trained.num_gradients)))
