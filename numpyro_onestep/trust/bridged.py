"""From the particles of a bridge to `Evidence`: log Z of its clouds, their spread, both bounds, and the checks."""

from collections.abc import Sequence

import numpy as np

from numpyro_onestep.bridge.crossing import Crossing
from numpyro_onestep.draws.weights import log_mean_weight, pareto_k, pareto_k_threshold
from numpyro_onestep.trust import checks
from numpyro_onestep.trust.evidence import Evidence

__all__ = ["estimate_bridged"]

_MAX_GAP = 0.25  # nats between the way there and the way back
_MIN_ANCESTORS = 0.1  # of the particles of a cloud
_MIN_ACCEPTANCE = 0.2


def estimate_bridged(
    crossings: Sequence[Crossing],
    alone: Evidence,
    caveats: Sequence[str] = (),
    failures: Sequence[str] = (),
    notes: Sequence[str] = (),
    log_ratios: np.ndarray | None = None,
) -> Evidence:
    """Turn bridges, one for each flow, into an `Evidence`.

    Args:
        crossings: the bridges.
        alone: what the flows' proposals alone would give.
        caveats: why the evidence is undefined, from the model; any makes `log_z` nan.
        failures: checks that failed elsewhere, in words.
        notes: remarks that do not speak against the number.
        log_ratios: log γ − log q at posterior draws that come from neither flow nor bridge.
    """
    clouds = [crossing.clouds for crossing in crossings]
    each = np.concatenate([np.asarray(c.log_z, np.float64) for c in clouds])
    log_z, spread = log_mean_weight(each)
    weighings = [_weighings(c) for c in clouds]
    std_error = float(max(spread, np.sqrt(np.mean([np.sum(v) for v, _ in weighings]) / len(clouds))))
    num = sum(c.ancestors.size for c in clouds)
    upper = np.concatenate([np.asarray(c.upper, np.float64) for c in crossings])
    result = alone._replace(
        log_z=log_z,
        std_error=std_error,
        elbo=float(np.mean(each)),
        eubo=float(np.mean(upper)),
        ess=num / (1 + num * std_error**2) if np.isfinite(std_error) else 0.0,
        pareto_k=max(k for _, k in weighings),
        num_proposals=num,
        num_evaluations=max(crossing.num_evaluations for crossing in crossings),
        reliable=True,
    )
    ratios = np.concatenate([np.asarray(c.at.log_target - c.at.log_base, np.float64) for c in clouds])
    failures = [*failures, *_failures(crossings, result, upper, num // len(clouds))]
    if np.isfinite(log_z) and np.all(np.isfinite(ratios)):
        failures += checks.number_failures(result, ratios)
        if log_ratios is not None:
            known = np.asarray(log_ratios, np.float64)
            known = known[~np.isnan(known)]
            of_clouds = np.mean(ratios, axis=1)
            expected = float(np.mean(of_clouds)), float(np.std(of_clouds, ddof=1) / len(of_clouds) ** 0.5)
            failures += checks.sandwich_failures(expected, known[np.isfinite(known)], len(known))
    if caveats:
        result = result._replace(log_z=float("nan"), std_error=float("nan"))
        failures = [*checks.undefined(caveats), *failures]
    number = f"log_z {alone.log_z:.3f} ± {alone.std_error:.3f} with " if np.isfinite(alone.log_z) else ""
    note = (
        f"note: {alone.num_evaluations} evaluation{'s' * (alone.num_evaluations > 1)} a draw would give {number}"
        f"{100 * alone.ess / alone.num_proposals:.2g} % of the draws effective; all here comes from a bridge of "
        f"{result.num_evaluations} evaluations."
    )
    return result._replace(reliable=not failures, warnings=(*failures, note, *notes))


def _weighings(clouds) -> tuple[np.ndarray, float]:
    """Relative variance of the mean weight at each weighing, from within the clouds, and the largest k̂."""
    log_w = np.asarray(clouds.log_weights, np.float64)[: int(clouds.num_rounds)]
    log_w = log_w.reshape(len(log_w), -1)
    errors = np.array([log_mean_weight(w)[1] for w in log_w])
    return errors**2, max((pareto_k(w) for w in log_w), default=float("inf"))


def _failures(crossings: Sequence[Crossing], e: Evidence, upper: np.ndarray, num: int) -> list[str]:
    """What speaks against the bridge itself, in words."""
    failures = []
    arrived = min(float(c.clouds.annealing) for c in crossings)
    if arrived < 1 or not np.isfinite(e.log_z):
        failures.append(
            f"The bridge from the flow to the target ended at temperature {arrived:.2g} of 1: the flow is too far from "
            "it. Train longer (num_warmup), or use NUTS for this model."
        )
        return failures
    error = float(np.hypot(e.std_error, np.std(upper, ddof=1) / len(upper) ** 0.5))
    if not abs(e.eubo - e.log_z) < _MAX_GAP + 2 * error:
        failures.append(
            f"The bridge says log_z {e.log_z:.3f} on the way to the target and {e.eubo:.3f} on the way back: particles "
            "do not reach all of the mass. Train longer (num_warmup) or raise `init_scale`."
        )
    ancestors = min(len(np.unique(cloud)) / len(cloud) for c in crossings for cloud in np.asarray(c.clouds.ancestors))
    if ancestors < _MIN_ANCESTORS:
        failures.append(
            f"The particles of a bridge's cloud come from {100 * ancestors:.2g} % of those that set out: few draws of "
            "the base lead to the target, so log_z and its error are not to be trusted. Train longer (num_warmup)."
        )
    accept_prob = min(float(c.clouds.accept_prob) for c in crossings)
    if accept_prob < _MIN_ACCEPTANCE:
        failures.append(
            f"{100 * (1 - accept_prob):.0f} % of the bridge's moves are refused, even short ones: its particles hardly "
            "move. Train longer (num_warmup), or use NUTS for this model."
        )
    threshold = pareto_k_threshold(num)
    if e.pareto_k > threshold:
        failures.append(
            f"Pareto k {e.pareto_k:.2f} of the bridge's weights is above {threshold:.2f}: few particles carry the "
            "weight, so log_z and its error are not to be trusted. Train longer (num_warmup)."
        )
    if e.fold_fraction > 0:
        failures.append(
            f"The map is not invertible at {100 * e.fold_fraction:.2f} % of the proposals (folds or lost precision): "
            "the weights there are wrong. Enable float64 (numpyro.enable_x64()) or lower the learning rate."
        )
    return failures
