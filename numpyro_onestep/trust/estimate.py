"""From fresh proposals to `Evidence`: the mean weight, its error, and what the checks say of it."""

from collections.abc import Sequence

import numpy as np

from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.draws.weights import effective_sample_size, log_mean_weight, pareto_k, unseen_error
from numpyro_onestep.trust import checks
from numpyro_onestep.trust.evidence import Evidence
from numpyro_onestep.trust.precision import Lost

__all__ = ["doubted", "elbo_of", "estimate", "put_right", "with_caveats"]

_MIN_FAMILIES = 16  # of the draws that bound log Z from above where a tail is heavy


def estimate(
    replicates: Sequence[Proposals],
    notes: Sequence[str] = (),
    failures: Sequence[str] = (),
    log_ratios: np.ndarray | None = None,
    families: np.ndarray | None = None,
    of_map: np.ndarray | None = None,
    num_evaluations: int = 1,
    undefined: float | None = None,
    lost: Lost | None = None,
) -> Evidence:
    """Turn proposals, one set per independently trained flow, into an `Evidence`.

    Args:
        replicates: proposals of equal number from each flow.
        notes: remarks that do not speak against the number.
        failures: checks that failed elsewhere, in words.
        log_ratios: log γ − log q at posterior draws that do not come from the flow, for the upper bound.
        families: labels of those of them that come from the same start; by default each from one of its own.
        of_map: log weights of the map alone, where those of the proposals are of further Hamiltonian steps.
        num_evaluations: of the target for each proposal.
        undefined: share of the proposals whose density is nan or infinite; by default of all without a finite weight.
        lost: what precision takes from log Z, where that was measured.
    """
    log_w = np.concatenate([np.asarray(r.log_weights, np.float64) for r in replicates])
    log_z, std_error = log_mean_weight(log_w)
    tail_shape = pareto_k(log_w)
    if np.isfinite(std_error):
        std_error = float(np.hypot(std_error, unseen_error(log_w, tail_shape)))
    rounded = checks.rounding(log_w) if lost is None else lost.std_error
    std_error = float(np.hypot(std_error, rounded))
    if len(replicates) > 1:
        each = np.array([log_mean_weight(np.asarray(r.log_weights))[0] for r in replicates])
        std_error = float(np.hypot(std_error, each.std(ddof=1) / np.sqrt(len(each))))
    folded = np.concatenate([np.asarray(r.folded) for r in replicates])
    ratios = np.zeros(0) if log_ratios is None else np.asarray(log_ratios, np.float64)
    families = np.arange(len(ratios)) if families is None else families
    arrived = ~np.isnan(ratios)
    ratios, families = ratios[arrived], families[arrived]
    usable = ratios[np.isfinite(ratios)]
    result = Evidence(
        log_z=log_z,
        std_error=std_error,
        elbo=elbo_of(log_w),
        eubo=float(np.mean(usable)) if len(usable) else float("nan"),
        ess=effective_sample_size(log_w),
        pareto_k=tail_shape,
        fold_fraction=float(max(np.mean(folded), np.mean(np.isnan(log_w)))),
        num_proposals=len(log_w),
        num_replicates=len(replicates),
        reliable=True,
        warnings=(),
        num_evaluations=num_evaluations,
    )
    no_weight = float(np.mean(~np.isfinite(log_w)))
    undefined = no_weight if undefined is None else undefined
    failures = [*failures, *checks.weight_failures(result, undefined, rounded)]
    notes = [*checks.vanishing_notes(no_weight - undefined), *notes]
    if np.isfinite(log_z):
        alone = log_w if of_map is None else np.asarray(of_map, np.float64)
        expected = checks.expected_ratio(alone, log_z if of_map is None else log_mean_weight(alone)[0])
        misses = checks.sandwich_failures(expected, ratios, families)
        bounded = checks.num_families(families[np.isfinite(ratios)]) >= _MIN_FAMILIES and not misses
        result, tail_failures, tail_notes = checks.tail_failures(result, log_w, bounded)
        failures, notes = [*failures, *misses, *tail_failures], [*tail_notes, *notes]
        if log_ratios is not None and len(ratios) == 0:
            notes.append("note: there is no upper bound of log Z: the tempering did not reach the target.")
    return result._replace(reliable=not failures, draws_reliable=not failures, warnings=(*failures, *notes))


def elbo_of(log_w: np.ndarray) -> float:
    """The mean log weight, of the flow restricted to where the target has a density; −∞ where a weight is nan.

    E[log w | within] + log q(within) is a lower bound of log Z as well.
    """
    within = log_w[~np.isneginf(log_w)]
    if len(within) == 0 or np.any(np.isnan(within)):
        return float("-inf")
    return float(np.mean(within) + np.log(len(within) / len(log_w)))


def doubted(e: Evidence, failures: Sequence[str]) -> Evidence:
    """The same where further checks of draws and evidence failed, in words."""
    if not failures:
        return e
    return e._replace(reliable=False, draws_reliable=False, warnings=(*failures, *e.warnings))


def put_right(e: Evidence, lost: Lost | None) -> Evidence:
    """The same with what precision took from log Z and its bounds, where that was measured."""
    if lost is None:
        return e
    moved = e._replace(log_z=e.log_z + lost.log_z, elbo=e.elbo + lost.log_z, eubo=e.eubo + lost.log_z)
    if abs(lost.log_z) <= checks.MAX_ROUNDING:
        return moved
    note = (
        f"note: single precision takes {-lost.log_z:.2g} nats from log_z, by a comparison with double precision at "
        "some draws; that is put right."
    )
    return moved._replace(warnings=(*moved.warnings, note))


def with_caveats(e: Evidence, caveats: Sequence[str]) -> Evidence:
    """The same where the model says that it has no evidence, and why: `log_z` is nan then."""
    if not caveats:
        return e
    said = (*(f"The evidence is undefined: {caveat}" for caveat in caveats), *e.warnings)
    if e.draws_reliable:
        said += ("note: the draws do not depend on that, and have passed every check.",)
    return e._replace(log_z=float("nan"), std_error=float("nan"), reliable=False, warnings=said)
