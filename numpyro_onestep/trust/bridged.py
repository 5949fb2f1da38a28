"""From the particles of a bridge to `Evidence`: log Z of its clouds, their spread, both bounds, and the checks."""

from collections.abc import Callable, Sequence

import numpy as np

from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.audit.regions import UNCOVERED
from numpyro_onestep.bridge.clouds import Clouds
from numpyro_onestep.bridge.crossing import MIN_ACCEPTANCE, NUM_LAST, Crossing
from numpyro_onestep.draws.weights import log_mean_weight, pareto_k, pareto_k_threshold, tail_error, unseen_error
from numpyro_onestep.trust import checks
from numpyro_onestep.trust.evidence import Evidence
from numpyro_onestep.trust.precision import Lost

__all__ = ["estimate_bridged", "log_z_of"]

_MAX_GAP = 0.25  # nats between the way there and the way back
_MIN_ANCESTORS = 0.1  # of the particles of a cloud
_ENOUGH_REACHED = 0.5  # of the mass that the audit saw out of the flow's reach
_SOME_REACHED, _LITTLE = 0.25, 0.02  # the same where what is left is no more than that share of all mass
_MAX_DRIFT = 0.25  # nats
_HUGE = 1e100  # nats, whose square can still be computed
_TELLING = 0.25  # share of the flow's draws that are effective, from which log Z by these alone counts too


def estimate_bridged(
    crossings: Sequence[Crossing],
    alone: Evidence,
    undefined: float = 0.0,
    audited: Audit | None = None,
    where: Callable[[], Sequence[str]] = tuple,
    notes: Sequence[str] = (),
    lost: Lost | None = None,
) -> Evidence:
    """Turn bridges, as many of each flow, into an `Evidence`.

    Args:
        crossings: the bridges, the flows in turn.
        alone: what the flows' proposals alone would give.
        undefined: share of these proposals whose density is nan or infinite.
        audited: the audit of the flows.
        where: what the audit found out of the flow's reach, in words.
        notes: remarks that do not speak against the number.
        lost: what precision takes from log Z, where that was measured.
    """
    clouds = [crossing.clouds for crossing in crossings]
    each = np.concatenate([np.asarray(c.log_z, np.float64) for c in clouds])
    log_z, chance = log_z_of(clouds)
    between = _between_flows(np.reshape(each, (-1, alone.num_replicates, len(each) // len(clouds))))
    shapes = [pareto_k(np.ravel(c.first_weights).astype(np.float64)) for c in clouds]
    hidden, failures, tail_notes = _tails(clouds, shapes)
    ratios = np.concatenate([np.asarray(c.at.log_target - c.at.log_base, np.float64) for c in clouds])
    rounded = checks.rounding(ratios) if lost is None else lost.std_error
    std_error = float(np.linalg.norm([max(chance, between), hidden, rounded]))
    num = sum(c.ancestors.size for c in clouds)
    upper = np.concatenate([np.asarray(c.upper, np.float64) for c in crossings])
    result = alone._replace(
        log_z=log_z,
        std_error=std_error,
        elbo=float(np.mean(each)),
        eubo=float(np.mean(upper)),
        pareto_k=max(shapes),
        num_proposals=num,
        num_evaluations=max(crossing.num_evaluations for crossing in crossings),
        reliable=True,
    )
    failures += [*checks.undefined_failures(undefined), *_failures(crossings, result, upper)]
    if not np.all(np.isfinite(ratios)):
        failures.append("Some of the bridge's particles have no finite density: it over- or underflows there.")
    elif np.isfinite(log_z):
        result, contradictions = _with_the_flow(result, alone)
        failures += [*contradictions, *checks.number_failures(result, rounded)]
        if audited is not None:
            missed, lack = _audit_failures(audited, ratios, log_z, where)
            result = result._replace(std_error=float(np.hypot(std_error, lack)))
            failures += missed
    note = (
        f"note: {alone.num_evaluations} evaluation{'s' * (alone.num_evaluations > 1)} a draw would give log_z "
        f"{alone.log_z:.3f} ± {alone.std_error:.3f} with {100 * alone.ess / alone.num_proposals:.3g} % of the draws "
        f"effective; this comes from a bridge of {result.num_evaluations} evaluations."
    )
    return result._replace(
        ess=num / (1 + num * min(result.std_error, _HUGE) ** 2) if np.isfinite(result.std_error) else 0.0,
        reliable=not failures,
        draws_reliable=not failures,
        warnings=(*failures, note, *tail_notes, *notes),
    )


def _between_flows(log_z: np.ndarray) -> float:
    """Standard error by what flows differ in, however many clouds each has; log Z of shape (times, flows, clouds)."""
    of_flows = [log_mean_weight(np.ravel(log_z[:, i]))[0] for i in range(log_z.shape[1])]
    return float(np.std(of_flows, ddof=1) / len(of_flows) ** 0.5) if len(of_flows) > 1 else 0.0


def _with_the_flow(bridged: Evidence, alone: Evidence) -> tuple[Evidence, list[str]]:
    """Log Z and its error from both estimates, where the flow's draws say something too, and whether they contradict.

    Places that few draws come from are missed by all clouds alike, or seen by one of the two. So half the square of
    their distance is added to both squared errors, a cautious estimate of the variance between methods (as in
    DerSimonian and Laird 1986, who take away what the errors explain). Where anything speaks against the flow's draws
    their distance only counts as an error.
    """
    if not alone.ess > _TELLING * alone.num_proposals:
        return bridged, []
    distance = min(abs(bridged.log_z - alone.log_z), _HUGE)
    if not alone.reliable:
        return bridged._replace(std_error=float(np.hypot(bridged.std_error, distance))), []
    failures = []
    if distance > _MAX_GAP + 2 * np.hypot(bridged.std_error, alone.std_error):
        failures.append(
            f"The bridge says log_z {bridged.log_z:.3f}, the flow's own draws {alone.log_z:.3f}: one of them misses "
            f"mass. {checks.LONGER}, or raise `init_scale`."
        )
    errors = np.minimum([bridged.std_error, alone.std_error], _HUGE)
    variances = errors**2 + 0.5 * distance**2 + 1e-24
    log_z = float(np.average([bridged.log_z, alone.log_z], weights=variances.min() / variances))
    both = bridged._replace(
        log_z=log_z,
        std_error=float(np.sum(1 / variances) ** -0.5),
        elbo=min(bridged.elbo, log_z),  # bounds still
        eubo=max(bridged.eubo, log_z),
    )
    return both, failures


def log_z_of(each: Sequence[Clouds]) -> tuple[float, float]:
    """Log Z by the mean weights of bridges; its error by the spread of clouds, or by all weights if that is larger."""
    log_z, spread = log_mean_weight(np.concatenate([np.asarray(clouds.log_z, np.float64) for clouds in each]))
    return log_z, float(max(spread, np.sqrt(np.mean([_error_within(clouds) ** 2 for clouds in each]) / len(each))))


def _error_within(clouds: Clouds) -> float:
    """Error of the product of the mean weights, and what larger first weights than those seen may add.

    Later weights are of particles that share ancestors; none of them has a large share.
    """
    first, *later = (
        np.ravel(w).astype(np.float64)
        for w in (clouds.first_weights, *np.asarray(clouds.log_weights)[: int(clouds.num_rounds)])
    )
    errors = [log_mean_weight(w)[1] for w in (first, *later)]
    return float(np.linalg.norm([*errors, unseen_error(first, pareto_k(first))]))


def _tails(clouds: Sequence[Clouds], shapes: Sequence[float]) -> tuple[float, list[str], list[str]]:
    """What first weights of these tail shapes may hide, in nats of log Z, and in words if too much or little."""
    firsts = [np.ravel(c.first_weights).astype(np.float64) for c in clouds]
    threshold = pareto_k_threshold(len(firsts[0]))
    hidden = max(tail_error(w, k) if k > threshold else 0.0 for w, k in zip(firsts, shapes, strict=True))
    said = f"Pareto k {max(shapes):.2f} of the bridge's first weights is above {threshold:.2f}"
    if hidden > checks.TOLERANCE:
        failure = f"{said}: few draws carry the weight, so log_z and its error are not to be trusted. {checks.LONGER}."
        return hidden, [failure], []
    note = f"note: {said}, but their tail holds little: its {hidden:.1g} nats are in the error of log_z."
    return hidden, [], [note] if hidden > 0 else []


def _drift(clouds: Clouds) -> tuple[float, float]:
    """By how much the mean log ratio rises in the rounds at the target itself, and the standard error of it."""
    num = int(clouds.num_rounds)
    rises = np.asarray(clouds.log_ratios)[num - 1] - np.asarray(clouds.log_ratios)[max(num - NUM_LAST, 0)]
    return float(np.mean(rises)), float(np.std(rises, ddof=1) / len(rises) ** 0.5)


def _audit_failures(
    audited: Audit, ratios: np.ndarray, log_z: float, where: Callable[[], Sequence[str]]
) -> tuple[list[str], float]:
    """Mass that the audit saw and the bridge did not reach, in words, or as an error in nats where it is little.

    That the flow alone does not reach it matters no more, unless it lies in tails: what particles see of those, which
    start in light ones, cannot be told.
    """
    of_clouds = np.mean(ratios, axis=1)
    error = float(np.std(of_clouds, ddof=1) / len(of_clouds) ** 0.5)
    expected = float(np.mean(of_clouds)), error, float(np.std(ratios))
    arrived = ~np.isnan(audited.log_ratios)
    known = audited.log_ratios[arrived].astype(np.float64)
    failures = checks.sandwich_failures(expected, known, audited.families[arrived])
    seen = audited.share if len(audited.missing) else float(np.sum(audited.shares[audited.doubtful]))
    reached = np.mean(ratios - log_z > UNCOVERED)
    left = max(seen - float(reached), 0.0)
    enough = reached > _ENOUGH_REACHED * seen or (reached > _SOME_REACHED * seen and left <= _LITTLE)
    if enough and not audited.long_tails:
        return failures, left
    return [*where(), *failures], 0.0


def _failures(crossings: Sequence[Crossing], e: Evidence, upper: np.ndarray) -> list[str]:
    """What speaks against the bridge itself, in words."""
    failures = []
    arrived = min(float(c.clouds.annealing) for c in crossings)
    if arrived < 1 or not np.isfinite(e.log_z):
        failures.append(
            f"The bridge from the flow to the target ended at temperature {arrived:.2g} of 1: the flow is too far from "
            f"it. {checks.LONGER}, or use NUTS for this model."
        )
        return failures
    error = float(np.hypot(e.std_error, np.std(upper, ddof=1) / len(upper) ** 0.5))
    if not abs(e.eubo - e.log_z) < _MAX_GAP + 2 * error:
        failures.append(
            f"The bridge says log_z {e.log_z:.3f} on the way to the target and {e.eubo:.3f} on the way back: particles "
            f"do not reach all of the mass. {checks.LONGER}, or raise `init_scale`."
        )
    ancestors = min(len(np.unique(cloud)) / len(cloud) for c in crossings for cloud in np.asarray(c.clouds.ancestors))
    if ancestors < _MIN_ANCESTORS:
        failures.append(
            f"The particles of a bridge's cloud come from {100 * ancestors:.2g} % of those that set out: few draws of "
            f"the base lead to the target, so log_z and its error are not to be trusted. {checks.LONGER}."
        )
    drifts = [_drift(c.clouds) for c in crossings]
    drift, error = max(drifts, key=lambda d: d[0] - 2 * d[1])
    if drift > _MAX_DRIFT + 2 * error:
        failures.append(
            f"The bridge's particles are still on their way at the target: the mean of their log weights rises by "
            f"{drift:.2f} nats with further moves, so log_z may be too low. {checks.LONGER}."
        )
    accept_prob = min(float(c.clouds.accept_prob) for c in crossings)
    if accept_prob < MIN_ACCEPTANCE:
        failures.append(
            f"{100 * (1 - accept_prob):.0f} % of the bridge's moves are refused, even short ones: its particles hardly "
            f"move. {checks.LONGER}, or use NUTS for this model."
        )
    if e.fold_fraction > 0:
        failures.append(
            f"The map is not invertible at {100 * e.fold_fraction:.2f} % of the proposals (folds or lost precision): "
            "the weights there are wrong. Enable float64 (numpyro.enable_x64()) or lower the learning rate."
        )
    return failures
