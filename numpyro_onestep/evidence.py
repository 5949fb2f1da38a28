"""The log evidence, its error, and the checks that decide whether to believe it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC

from numpyro_onestep import base as base_
from numpyro_onestep import coverage, flow, train
from numpyro_onestep.coverage import Audit
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.losses import Problem
from numpyro_onestep.network import StepNetwork
from numpyro_onestep.state import OneStepState
from numpyro_onestep.weights import effective_sample_size, log_mean_weight, pareto_k, pareto_k_threshold

__all__ = ["Evidence", "Proposals", "audit", "estimate", "evidence", "propose", "trained_flows"]

_NUM_PROPOSALS = 4096
_CHUNK = 1024


class Evidence(NamedTuple):
    """An estimate of the log evidence log Z = log ∫γ and what is known of its quality. All in nats but the counts.

    Attributes:
        log_z: log of the mean weight of fresh proposals; nan where the evidence is undefined.
        std_error: its standard error, the spread between replicates included.
        elbo: mean log weight of the proposals, the DF-ELBO: a lower bound of log Z in expectation.
        eubo: the upper bound; nan where it was not estimated.
        ess: effective sample size of the weights, a count out of `num_proposals`.
        pareto_k: shape of the weights' tail; trust below min(1 − 1/log10 N, .7).
        fold_fraction: share of proposals where the map is not injective or its inverse does not return.
        num_proposals: number of fresh proposals.
        num_replicates: number of independently trained flows.
        reliable: whether every check passed.
        warnings: the checks that failed, in words, and notes on what the number means.
    """

    log_z: float
    std_error: float
    elbo: float
    eubo: float
    ess: float
    pareto_k: float
    fold_fraction: float
    num_proposals: int
    num_replicates: int
    reliable: bool
    warnings: tuple[str, ...]


class Proposals(NamedTuple):
    """Fresh draws of the flow: unconstrained flat points (N, D), their log weights, −log γ and folds, each (N,)."""

    points: Array
    log_weights: Array
    potential_energy: Array
    folded: Array


def propose(
    network: StepNetwork, problem: Problem, rng_key: Array, num_draws: int, num_steps: int, check_folds: bool = False
) -> Proposals:
    """Draw from the flow, in chunks of fixed size so that any number compiles once.

    With `check_folds` every draw is also carried back through the inverse; a draw is folded where a Jacobian is not
    positive definite or the way back misses the base draw by more than 1e-3 (in units of the base).
    """
    num_chunks = -(-num_draws // _CHUNK)
    size = min(_CHUNK, num_draws)

    @jax.jit
    def chunk(network: StepNetwork, key: Array) -> Proposals:
        x0 = base_.sample(problem.base, key, size)
        y, log_w = train.log_weights(network, problem, x0, num_steps)
        energy = jax.vmap(lambda u: base_.whitening_log_det(problem.base, u) - problem.target.value(u))(y)
        folded = jnp.isnan(log_w)
        if check_folds:
            blocks = flow.blocks_of(network, num_steps)
            back = jax.vmap(lambda y: flow.inverse(blocks, y))(y)
            folded |= ~(jnp.max(jnp.abs(back - x0), axis=1) < 1e-3)
        return Proposals(jax.vmap(lambda u: base_.unwhiten(problem.base, u))(y), log_w, energy, folded)

    chunks = [chunk(network, key) for key in random.split(rng_key, num_chunks)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_draws], *chunks)


def audit(kernel: OneStep, flows: Sequence[OneStepState], rng_key: Array, args: tuple, kwargs: dict[str, Any]) -> Audit:
    """Look for mass that the flows do not reach; of several flows that which misses most. `coverage.py` says how."""
    look = coverage.auditor(kernel.target(args, kwargs), kernel.init_scale)
    audits = []
    for state, key in zip(flows, random.split(rng_key, len(flows)), strict=True):
        key_log_z, key_audit = random.split(key)
        base, network = state.base, state.train.best  # type: ignore[union-attr]
        problem = kernel.problem(base, args, kwargs)  # type: ignore[arg-type]
        proposals = propose(network, problem, key_log_z, _CHUNK, kernel.num_steps)
        log_z = jnp.asarray(log_mean_weight(np.asarray(proposals.log_weights))[0], proposals.points.dtype)
        audits.append(look(key_audit, problem.base, flow.blocks_of(network, kernel.num_steps), log_z))
    return max(audits, key=lambda found: float(found.share))


def _describe(kernel: OneStep, found: Audit, args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """What an audit found, in words, by constrained values."""
    if len(found.missing) == 0:
        return []
    places = []
    for i in found.missing:
        point = kernel.postprocess_fn(args, kwargs)(kernel.setup.unravel(found.regions.means[i]))
        sites = point if isinstance(point, dict) else {"parameters": ravel_pytree(point)[0]}
        places.append(", ".join(f"{name} = {_short(np.ravel(value))}" for name, value in list(sites.items())[:4]))
    return [
        f"At least {100 * float(found.share):.2g} % of the posterior's mass is out of the flow's reach, around "
        f"{'; '.join(places)}: log_z is too low and the draws lack it. Spread the starts with a larger `init_scale`, "
        "or start there with `init_params` or `init_strategy`."
    ]


def _short(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values[:3])
    return shown if len(values) == 1 else f"({shown}{', …' if len(values) > 3 else ''})"


def estimate(
    replicates: Sequence[Proposals], caveats: Sequence[str], notes: Sequence[str] = (), failures: Sequence[str] = ()
) -> Evidence:
    """Turn proposals, one set per independently trained flow, into an `Evidence`.

    Args:
        replicates: proposals of equal number from each flow.
        caveats: why the evidence is undefined, from the model; any makes `log_z` nan.
        notes: remarks that do not speak against the number.
        failures: checks that failed elsewhere, in words.
    """
    log_w = np.concatenate([np.asarray(r.log_weights, np.float64) for r in replicates])
    log_z, std_error = log_mean_weight(log_w)
    if len(replicates) > 1:
        each = np.array([log_mean_weight(np.asarray(r.log_weights))[0] for r in replicates])
        std_error = float(np.hypot(std_error, each.std(ddof=1) / np.sqrt(len(each))))
    folds = float(np.mean(np.concatenate([np.asarray(r.folded) for r in replicates])))
    finite = np.isfinite(log_w)
    result = Evidence(
        log_z=log_z,
        std_error=std_error,
        elbo=float(np.mean(np.where(np.isnan(log_w), -np.inf, log_w))),
        eubo=float("nan"),
        ess=float(effective_sample_size(jnp.asarray(log_w))),
        pareto_k=pareto_k(log_w),
        fold_fraction=folds,
        num_proposals=len(log_w),
        num_replicates=len(replicates),
        reliable=True,
        warnings=(),
    )
    failures = [*failures, *_failures(result, float(np.mean(~finite)), log_w)]
    if caveats:
        result = result._replace(log_z=float("nan"), std_error=float("nan"))
        failures = [f"The evidence is undefined: {caveat}" for caveat in caveats] + failures
    return result._replace(reliable=not failures, warnings=(*failures, *notes))


def _failures(e: Evidence, lost: float, log_w: np.ndarray) -> list[str]:
    """The checks that failed, in words."""
    failures = []
    if not np.isfinite(e.log_z):
        failures.append("The weights are all zero or one is infinite: the density over- or underflows at the draws.")
        return failures
    if lost > 0.01:
        failures.append(f"{100 * lost:.1f} % of the proposals have no finite weight (nan or infinite potential).")
    threshold = pareto_k_threshold(e.num_proposals)
    if e.pareto_k > threshold:
        failures.append(
            f"Pareto k {e.pareto_k:.2f} is above {threshold:.2f}: few draws carry the weight, so log_z and its error "
            "are not to be trusted. Train longer (num_warmup) or use more steps (num_steps)."
        )
    if e.ess < max(100.0, 0.01 * e.num_proposals):
        failures.append(
            f"The effective sample size is {e.ess:.0f} of {e.num_proposals} proposals: the flow does not fit the "
            "target. Train longer (num_warmup), or use NUTS for this model."
        )
    if e.fold_fraction > 0:
        failures.append(
            f"The map is not invertible at {100 * e.fold_fraction:.2f} % of the proposals (folds or lost precision): "
            "the weights there are wrong. Enable float64 (numpyro.enable_x64()) or lower the learning rate."
        )
    if e.std_error > 0.2:
        failures.append(f"The standard error of log_z is {e.std_error:.2f} nats: draw more proposals or train longer.")
    rounding = float(np.max(np.abs(log_w[np.isfinite(log_w)]))) * float(jnp.finfo(jnp.result_type(float)).eps)
    if rounding > 0.01:
        failures.append(
            f"Log densities near {e.log_z:.3g} carry rounding errors of about {rounding:.2g} nats in this precision: "
            "enable float64 (numpyro.enable_x64())."
        )
    return failures


def trained_flows(state: Any) -> list[OneStepState]:
    """The state's independently trained flows: one, or one for each chain that trained its own.

    Raises:
        ValueError: if there is no trained flow.
    """
    if not isinstance(state, OneStepState) or state.train is None:
        raise ValueError("No trained OneStep flow here: call `run` with a `OneStep` kernel and num_warmup ≥ 1 first.")
    if jnp.ndim(state.train.iteration) == 0:
        return [state]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(state.train.iteration.shape[0])]


def evidence(mcmc: MCMC, rng_key: Array, num_proposals: int = _NUM_PROPOSALS, audited: Audit | None = None) -> Evidence:
    """Estimate the log evidence from the trained state of an `MCMC` run with a `OneStep` kernel.

    Uses fresh proposals only, never the accepted states. Chains that trained their own flows count as replicates. With
    the kernel's `coverage_audit` every flow is audited for mass that it does not reach.

    Args:
        mcmc: a `numpyro.infer.MCMC` (or `OneStepSampler`) after `run` or `warmup`.
        rng_key: random key.
        num_proposals: fresh proposals in all.
        audited: the audit of this flow, where there is one already.

    Raises:
        TypeError: if the kernel is not `OneStep`.
        ValueError: if nothing was trained.
    """
    kernel = mcmc.sampler
    if not isinstance(kernel, OneStep):
        raise TypeError(f"evidence() needs a OneStep kernel, this MCMC has {type(kernel).__name__}.")
    flows = trained_flows(mcmc.last_state if mcmc.last_state is not None else mcmc.post_warmup_state)
    share = -(-num_proposals // len(flows))
    replicates = []
    for state, key in zip(flows, random.split(rng_key, len(flows)), strict=True):
        problem = kernel.problem(state.base, mcmc._args, mcmc._kwargs)  # type: ignore[arg-type]
        best = state.train.best  # type: ignore[union-attr]
        replicates.append(propose(best, problem, key, share, kernel.num_steps, check_folds=True))
    if audited is None and kernel.coverage_audit:
        audited = audit(kernel, flows, random.fold_in(rng_key, 1), mcmc._args, mcmc._kwargs)
    failures = [] if audited is None else _describe(kernel, audited, mcmc._args, mcmc._kwargs)
    return estimate(replicates, kernel.setup.caveats, kernel.setup.notes, failures)
