"""The log evidence, its error, and the checks that decide whether to believe it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.infer import MCMC

from numpyro_onestep.draws.proposal import Proposals, propose
from numpyro_onestep.draws.weights import (
    effective_sample_size,
    log_mean_weight,
    pareto_k,
    pareto_k_threshold,
    tail_error,
    unseen_error,
)
from numpyro_onestep.run import kernel_of
from numpyro_onestep.trust import audit, describe
from numpyro_onestep.trust.coverage import Audit

__all__ = ["Evidence", "estimate", "evidence"]

_NUM_PROPOSALS = 4096
_TOLERANCE = 0.05  # nats of log Z
_MANY_MODES = (
    "note: the target has more than 63 modes, or as many places that look like one. The flow was trained from one "
    "broad Gaussian over all of them; a mode lost among so many may go unseen."
)
_MAX_EXCESS = 0.25  # nats of the upper bound over what the flow implies


class Evidence(NamedTuple):
    """An estimate of the log evidence log Z = log ∫γ and what is known of its quality. All in nats but the counts.

    Attributes:
        log_z: log of the mean weight of fresh proposals; nan where the evidence is undefined.
        std_error: its standard error, with the spread between replicates and what larger weights than those seen, and a
            heavy tail, may add.
        elbo: mean log weight of the proposals, the DF-ELBO: a lower bound of log Z in expectation.
        eubo: the DF-EUBO, an upper bound of log Z in expectation, from posterior draws that do not come from the flow;
            nan where it was not estimated.
        ess: effective sample size of the weights, a count out of `num_proposals`.
        pareto_k: shape of the weights' tail; trust below min(1 − 1/log10 N, .7), or where a note says that the
            tail holds next to nothing.
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


def estimate(
    replicates: Sequence[Proposals],
    caveats: Sequence[str],
    notes: Sequence[str] = (),
    failures: Sequence[str] = (),
    log_ratios: np.ndarray | None = None,
) -> Evidence:
    """Turn proposals, one set per independently trained flow, into an `Evidence`.

    Args:
        replicates: proposals of equal number from each flow.
        caveats: why the evidence is undefined, from the model; any makes `log_z` nan.
        notes: remarks that do not speak against the number.
        failures: checks that failed elsewhere, in words.
        log_ratios: log γ − log q at posterior draws that do not come from the flow, for the upper bound.
    """
    log_w = np.concatenate([np.asarray(r.log_weights, np.float64) for r in replicates])
    log_z, std_error = log_mean_weight(log_w)
    tail_shape = pareto_k(log_w)
    if np.isfinite(std_error):
        std_error = float(np.hypot(std_error, unseen_error(log_w, tail_shape)))
    if len(replicates) > 1:
        each = np.array([log_mean_weight(np.asarray(r.log_weights))[0] for r in replicates])
        std_error = float(np.hypot(std_error, each.std(ddof=1) / np.sqrt(len(each))))
    folds = float(np.mean(np.concatenate([np.asarray(r.folded) for r in replicates])))
    ratios = np.zeros(0) if log_ratios is None else np.asarray(log_ratios, np.float64)
    ratios = ratios[~np.isnan(ratios)]  # where the tempering did not arrive
    usable = ratios[np.isfinite(ratios)]
    result = Evidence(
        log_z=log_z,
        std_error=std_error,
        elbo=float(np.mean(np.where(np.isnan(log_w), -np.inf, log_w))),
        eubo=float(np.mean(usable)) if len(usable) else float("nan"),
        ess=float(effective_sample_size(jnp.asarray(log_w))),
        pareto_k=tail_shape,
        fold_fraction=folds,
        num_proposals=len(log_w),
        num_replicates=len(replicates),
        reliable=True,
        warnings=(),
    )
    failures = [*failures, *_failures(result, float(np.mean(~np.isfinite(log_w))), log_w)]
    if np.isfinite(log_z):
        misses = _sandwich_failures(result, log_w, usable, len(ratios))
        result, tail_failures, tail_notes = _tail(result, log_w, bounded=len(usable) > 0 and not misses)
        failures, notes = [*failures, *misses, *tail_failures], [*tail_notes, *notes]
        if log_ratios is not None and len(ratios) == 0:
            notes.append("note: there is no upper bound of log Z: the tempering did not reach the target.")
    if caveats:
        result = result._replace(log_z=float("nan"), std_error=float("nan"))
        failures = [f"The evidence is undefined: {caveat}" for caveat in caveats] + failures
    return result._replace(reliable=not failures, warnings=(*failures, *notes))


def _tail(e: Evidence, log_w: np.ndarray, bounded: bool) -> tuple[Evidence, list[str], list[str]]:
    """A failure where the weights' tail is heavy, or a note and a wider error where it holds next to nothing.

    The second only if log Z is `bounded` from above by other draws: what a tail holds that no draw reached, the weights
    themselves cannot tell.
    """
    threshold = pareto_k_threshold(e.num_proposals)
    if not e.pareto_k > threshold:
        return e, [], []
    error = tail_error(log_w, e.pareto_k)
    if error > _TOLERANCE or not bounded:
        failure = (
            f"Pareto k {e.pareto_k:.2f} is above {threshold:.2f}: few draws carry the weight, so log_z and its error "
            "are not to be trusted. Train longer (num_warmup) or use more steps (num_steps)."
        )
        return e, [failure], []
    note = (
        f"note: Pareto k {e.pareto_k:.2f} is above {threshold:.2f}, but the tail as far as it was seen holds little: "
        f"its {error:.1g} nats are in the error of log_z."
    )
    return e._replace(std_error=float(np.hypot(e.std_error, error))), [], [note]


def _sandwich_failures(e: Evidence, log_w: np.ndarray, log_ratios: np.ndarray, num_draws: int) -> list[str]:
    """Whether posterior draws made without the flow have higher weights than the flow's own draws can account for.

    Both E_p[log w] from the flow's draws, each weighted by w, and the DF-EUBO estimate the same number, unless the flow
    misses mass that the other draws see. `log_ratios` are the finite ones of `num_draws`.
    """
    failures = []
    lost = 1 - len(log_ratios) / max(num_draws, 1)
    if num_draws and lost > 0.01:
        failures.append(
            f"{100 * lost:.1f} % of the posterior draws made without the flow cannot be carried back through it: they "
            "are out of its reach, or precision is lost. Enable float64 (numpyro.enable_x64()) or train longer."
        )
    if len(log_ratios) == 0:
        return failures
    finite = log_w[np.isfinite(log_w)]
    share = np.exp(finite - e.log_z) / len(log_w)
    expected = np.sum(share * finite)
    excess = e.eubo - expected
    error = np.hypot(
        np.std(log_ratios) / len(log_ratios) ** 0.5, np.std(share * (finite - expected)) * len(finite) ** 0.5
    )
    if excess > _MAX_EXCESS + 2 * error:
        failures.append(
            f"The upper bound of log Z, {e.eubo:.3f}, from posterior draws made without the flow, is {excess:.2f} nats "
            "above what the flow's own draws imply: it misses mass. Train longer (num_warmup) or raise `init_scale`."
        )
    return failures


def _failures(e: Evidence, lost: float, log_w: np.ndarray) -> list[str]:
    """The checks that failed, in words."""
    failures = []
    if not np.isfinite(e.log_z):
        failures.append("The weights are all zero or one is infinite: the density over- or underflows at the draws.")
        return failures
    if lost > 0.01:
        failures.append(f"{100 * lost:.1f} % of the proposals have no finite weight (nan or infinite potential).")
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
    heavy = log_w[log_w > np.max(log_w) - 20]  # those that count
    rounding = float(np.max(np.abs(heavy))) * float(jnp.finfo(jnp.result_type(float)).eps)
    if rounding > 0.01:
        failures.append(
            f"Log densities near {e.log_z:.3g} carry rounding errors of about {rounding:.2g} nats in this precision: "
            "enable float64 (numpyro.enable_x64())."
        )
    return failures


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
        RuntimeError: if the model does something else now than in that run.
    """
    kernel = kernel_of(mcmc, "evidence()")
    state = mcmc.last_state if mcmc.last_state is not None else mcmc.post_warmup_state
    given = mcmc._args, mcmc._kwargs
    flows = kernel.flows(state, *given)  # type: ignore[arg-type]
    share = -(-num_proposals // len(flows))
    *keys, key_audit = random.split(rng_key, len(flows) + 1)
    replicates = [propose(f, key, share, kernel.num_steps, True) for f, key in zip(flows, keys, strict=True)]
    if audited is None and kernel.coverage_audit:
        log_z = [log_mean_weight(np.asarray(r.log_weights))[0] for r in replicates]
        audited = audit(kernel, flows, log_z, key_audit, *given)
    failures = [] if audited is None else describe(kernel, audited, *given)
    log_ratios = None if audited is None else audited.log_ratios
    notes = kernel.setup.notes
    if any(bool(trained.problem.base.annealed) for trained in flows):
        notes += (_MANY_MODES,)
    return estimate(replicates, kernel.setup.caveats, notes, failures, log_ratios)
