"""A finished run, seen as it was: its model, its arguments, its flows, and the evidence from them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, random
from numpyro.infer import MCMC

from numpyro_onestep import options
from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.audit.flat import flatness_failures
from numpyro_onestep.audit.report import audit, describe
from numpyro_onestep.base.modes import num_drawn
from numpyro_onestep.bridge.crossing import Crossing
from numpyro_onestep.compilation import fold_in, split
from numpyro_onestep.devices import FOR_RUNS, row
from numpyro_onestep.draws.proposal import NUM_PROPOSALS, propose, undefined_share, want_bridge
from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.steps import own_steps
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.model.function import ModelFunction, same_leaves
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.sampling import bridges_of
from numpyro_onestep.state import OneStepState, first_values, flows_of, trained_flows
from numpyro_onestep.threads import one_blas_thread
from numpyro_onestep.trust.bridged import estimate_bridged
from numpyro_onestep.trust.checks import MANY_MODES, MAX_LOST
from numpyro_onestep.trust.estimate import doubted, estimate, put_right, with_caveats
from numpyro_onestep.trust.evidence import Evidence
from numpyro_onestep.trust.precision import lost_digits

__all__ = ["Run", "all_or_nothing", "evidence", "run_of"]

_LARGE_ERROR, _MORE = 0.03, 3  # of log Z in nats, as tails make it, from which so many times more proposals are drawn


class Run(NamedTuple):
    """What a finished run was of and what came of it.

    Attributes:
        kernel: its kernel, for the options.
        setup: the model as it was seen in this run.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.
        state: the last state.
    """

    kernel: OneStep
    setup: ModelSetup
    args: tuple
    kwargs: dict[str, Any]
    state: OneStepState

    def flows(self, enough: float = FOR_RUNS) -> list[Flow]:
        """The independently trained flows, on the kernel's devices; by default if an evaluation has `enough` work."""
        mesh = row(self.kernel.mesh, self.setup.work, enough)
        return flows_of(self.state, self.setup.target(self.args, self.kwargs), mesh)

    def constrain(self) -> ModelFunction:
        """Constrained values and deterministic sites of the sampler's flat vector."""
        return self.setup.constrain(self.args, self.kwargs)

    def constrain_point(self) -> ModelFunction:
        """The same of the model's flat unconstrained vector."""
        return self.setup.in_coordinates(None).constrain(self.args, self.kwargs)


def run_of(mcmc: MCMC, what: str) -> Run:
    """The finished run of `mcmc`; `what` needs it, for the error.

    One kernel may serve several runs, and NumPyro does not tell it of the arguments of a run that is resumed. A
    `OneStepSampler` keeps the setup of its last run; for a stock `MCMC` the model is looked at again.

    Raises:
        TypeError: if the kernel is not `OneStep`.
        ValueError: if nothing was trained.
        RuntimeError: if the model does something else now than in that run.
    """
    kernel = getattr(mcmc, "sampler", mcmc)
    if not isinstance(kernel, OneStep) or kernel is mcmc:
        raise TypeError(f"{what} needs an MCMC with a OneStep kernel, not {type(kernel).__name__}.")
    state: Any = mcmc.last_state if mcmc.last_state is not None else mcmc.post_warmup_state
    first = trained_flows(state)[0]
    setup = getattr(mcmc, "setup", None)
    given: Any = getattr(mcmc, "_args", None), getattr(mcmc, "_kwargs", None)
    if given[0] is None:
        raise ValueError(f"{what} needs the model's arguments: call `run` first, which goes on from the state set.")
    if setup is None:
        setup = kernel.setup
        if kernel.model is not None and (setup.idle is not None or not same_leaves(setup.given, given)):
            setup = kernel.look(random.key(0), first_values(first), *given, fill_idle=False)
    setup.check_unchanged()
    args, kwargs = given
    return Run(kernel, setup.in_coordinates(state.members), args, kwargs, state)


@contextmanager
def all_or_nothing(mcmc: MCMC) -> Iterator[None]:
    """A run that fails or is interrupted leaves `mcmc` as it was: the flow of one run, the data of the same."""
    before = dict(mcmc.__dict__)
    try:
        yield
    except BaseException:
        mcmc.__dict__.clear()
        mcmc.__dict__.update(before)
        raise


@one_blas_thread()
def evidence(
    mcmc: MCMC,
    rng_key: Array,
    num_proposals: int = NUM_PROPOSALS,
    audited: Audit | None = None,
    bridges: Sequence[Crossing] | None = None,
) -> Evidence:
    """Estimate the log evidence from the trained state of an `MCMC` run with a `OneStep` kernel.

    Uses fresh proposals only, never the accepted states. Chains that trained their own flows count as replicates. With
    the kernel's `coverage_audit` every flow is audited for mass that it does not reach. Where the proposals are not
    enough, by the kernel's `bridge`, log Z is that of a bridge from the flow to the target.

    Args:
        mcmc: a `numpyro.infer.MCMC` (or `OneStepSampler`) after `run` or `warmup`.
        rng_key: random key.
        num_proposals: fresh proposals in all; four times as many where the error of log Z is above .03 and no bridge is
            wanted.
        audited: the audit of this flow, where there is one already.
        bridges: the same for its bridges.

    Raises:
        TypeError: if the kernel is not `OneStep`.
        ValueError: if nothing was trained.
        RuntimeError: if the model does something else now than in that run.
    """
    options.check_key(rng_key)
    num_proposals = options.whole("num_proposals", num_proposals)
    run = run_of(mcmc, "evidence()")
    kernel, flows = run.kernel, run.flows()
    share = -(-num_proposals // len(flows))
    *keys, key_audit = split(rng_key)[:2] if len(flows) == 1 else random.split(rng_key, len(flows) + 1)
    pairs = list(zip(flows, keys, strict=True))
    replicates = [propose(f, key, share, kernel.num_steps, True) for f, key in pairs]
    if audited is None and kernel.coverage_audit:
        log_z = [log_mean_weight(np.asarray(r.log_weights))[0] for r in replicates]
        drawn = run.setup.draw_prior(random.fold_in(key_audit, 2), num_drawn(run.setup.work), run.args, run.kwargs)
        audited = audit(key_audit, flows, kernel.num_steps, kernel.init_scale, log_z, drawn)
    where = lambda: [] if audited is None else describe(audited, run.constrain(), improper)  # noqa: E731
    improper = any("improper" in caveat for caveat in run.setup.caveats)
    notes = run.setup.notes
    if any(bool(flow.problem.base.annealed) for flow in flows):
        notes += (MANY_MODES,)
    log_ratios, families = (None, None) if audited is None else (audited.log_ratios, audited.families)
    of_map = None
    own = own_steps(flows[0].network, kernel.num_steps)
    if own < kernel.num_steps and log_ratios is not None:
        alone = [propose(f, key, share, own) for f, key in pairs]
        of_map = np.concatenate([np.asarray(r.log_weights) for r in alone])
    undefined = float(np.mean([~np.isfinite(np.asarray(r.log_weights)) for r in replicates]))
    if undefined > MAX_LOST:  # else it is not worth a look
        undefined = float(np.mean([undefined_share(f, r) for f, r in zip(flows, replicates, strict=True)]))
    lost = lost_digits(run.setup, run.args, run.kwargs, replicates[0])
    rest = notes, where(), log_ratios, families, of_map, kernel.num_steps, undefined, lost
    result = estimate(replicates, *rest)
    wanted = lambda e: bridges is None and want_bridge(kernel.bridge, e.ess / e.num_proposals, e.reliable)  # noqa: E731
    if bridges is None and result.reliable and result.std_error > _LARGE_ERROR and not wanted(result):
        more = [[propose(f, fold_in(k, i), share, kernel.num_steps) for i in range(_MORE)] for f, k in pairs]
        replicates = [jax.tree.map(_joined, r, *further) for r, further in zip(replicates, more, strict=True)]
        result = estimate(replicates, *rest)
    if wanted(result):
        bridges = bridges_of(flows, random.fold_in(key_audit, 1), kernel.num_steps)
    if bridges is not None:
        bridged = estimate_bridged(bridges, result, undefined, audited, where, notes, lost)
        result = bridged if bridged.reliable or not result.reliable else result
    if improper:
        result = doubted(result, flatness_failures(flows[0].problem, random.fold_in(key_audit, 3)))
    return with_caveats(put_right(result, lost), run.setup.caveats)


def _joined(*leaves: Array) -> np.ndarray:
    return np.concatenate([np.asarray(leaf) for leaf in leaves])
