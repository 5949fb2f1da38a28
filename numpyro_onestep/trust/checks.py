"""The checks behind `reliable`: each returns what failed, in words, with what to do about it."""

import jax.numpy as jnp
import numpy as np

from numpyro_onestep.draws.weights import pareto_k_threshold, tail_error
from numpyro_onestep.trust.evidence import Evidence

__all__ = [
    "LONGER",
    "MANY_MODES",
    "MAX_LOST",
    "MAX_ROUNDING",
    "TOLERANCE",
    "expected_ratio",
    "num_families",
    "number_failures",
    "rounding",
    "sandwich_failures",
    "tail_failures",
    "undefined_failures",
    "vanishing_notes",
    "weight_failures",
]

LONGER = "Train longer (target_ess=1.0, or a larger num_warmup)"
TOLERANCE = 0.05  # nats of log Z
MAX_ROUNDING = 0.01  # nats
MAX_LOST = 0.01  # share of the proposals
_MAX_EXCESS = 0.25  # nats of the upper bound over what the flow implies
MANY_MODES = (
    "note: the target has more than 63 modes, or as many places that look like one. The flow was trained from one "
    "broad Gaussian over all of them; a mode lost among so many may go unseen."
)


def tail_failures(e: Evidence, log_w: np.ndarray, bounded: bool) -> tuple[Evidence, list[str], list[str]]:
    """A failure where the weights' tail is heavy, or a note and a wider error where it holds next to nothing.

    The second only if log Z is `bounded` from above by other draws: what a tail holds that no draw reached, the weights
    themselves cannot tell.
    """
    threshold = pareto_k_threshold(e.num_proposals)
    if not e.pareto_k > threshold:
        return e, [], []
    error = tail_error(log_w, e.pareto_k)
    if error > TOLERANCE or not bounded:
        failure = (
            f"Pareto k {e.pareto_k:.2f} is above {threshold:.2f}: few draws carry the weight, so log_z and its error "
            f"are not to be trusted. {LONGER}, or use more steps (num_steps)."
        )
        return e, [failure], []
    note = (
        f"note: Pareto k {e.pareto_k:.2f} is above {threshold:.2f}, but the tail as far as it was seen holds little: "
        f"its {error:.1g} nats are in the error of log_z."
    )
    return e._replace(std_error=float(np.hypot(e.std_error, error))), [], [note]


def expected_ratio(log_w: np.ndarray, log_z: float) -> tuple[float, float, float]:
    """E_p[log w] from the flow's draws, each weighted by w, its standard error, and the spread of log w under p."""
    finite = log_w[np.isfinite(log_w)]
    share = np.exp(finite - log_z) / len(log_w)
    expected = float(np.sum(share * finite))
    away = finite - expected
    return expected, float(np.std(share * away) * len(finite) ** 0.5), float(np.sqrt(np.sum(share * away**2)))


def sandwich_failures(expected: tuple[float, float, float], log_ratios: np.ndarray, families: np.ndarray) -> list[str]:
    """Whether posterior draws made without the flow have higher weights than its own draws can account for.

    Both estimate E_p[log w], unless the flow misses mass that the other draws see.

    Args:
        expected: E_p[log w] from the flow's draws or a bridge's particles, its standard error, and the spread of log w.
        log_ratios: log w of the other draws, infinite where the way back through the flow fails.
        families: labels of those that come from the same start, which may all be in one mode of many: each family
            counts as one draw.
    """
    failures = []
    usable = np.isfinite(log_ratios)
    lost = 1 - np.mean(usable) if len(usable) else 0.0
    if lost > 0.01:
        failures.append(
            f"{100 * lost:.1f} % of the posterior draws made without the flow cannot be carried back through it: they "
            "are out of its reach, or precision is lost. Enable float64 (numpyro.enable_x64()) or train longer."
        )
    if not usable.any():
        return failures
    upper = float(np.mean(log_ratios[usable]))
    excess = upper - expected[0]
    spread = max(float(np.std(log_ratios[usable])), expected[2])
    error = np.hypot(spread / num_families(families[usable]) ** 0.5, expected[1])
    if excess > _MAX_EXCESS + 2 * error:
        failures.append(
            f"The upper bound of log Z, {upper:.3f}, from posterior draws made without the flow, is {excess:.2f} nats "
            f"above what the flow's own draws imply: it misses mass. {LONGER}, or raise `init_scale`."
        )
    return failures


def num_families(families: np.ndarray) -> float:
    """How many families of equal size a mean over draws of these labels is as good as; 0 without draws."""
    sizes = np.unique(families, return_counts=True)[1] / max(len(families), 1)
    return 1 / float(np.sum(sizes**2)) if len(sizes) else 0.0


def undefined_failures(undefined: float) -> list[str]:
    """Whether a share of the proposals ends where the density cannot be computed."""
    said = (
        f"At {100 * undefined:.1f} % of the proposals the density cannot be computed (it is nan or infinite): what "
        "mass is there is unknown. Write the model so that it is finite, or zero where it should be, or enable float64 "
        "(numpyro.enable_x64())."
    )
    return [said] if undefined > MAX_LOST else []


def vanishing_notes(vanishing: float) -> list[str]:
    """Whether a share of the proposals ends where the density is zero, which costs draws and no more."""
    said = (
        f"note: {100 * vanishing:.1f} % of the proposals end where the density is zero, as beyond a hard edge. They "
        "have no weight; the others make up for it."
    )
    return [said] if vanishing > MAX_LOST else []


def weight_failures(e: Evidence, undefined: float, rounded: float) -> list[str]:
    """The checks that failed, in words.

    Args:
        e: what is known of the weights.
        undefined: share of the proposals whose density is nan or infinite.
        rounded: the error that precision brings.
    """
    failures = []
    if not np.isfinite(e.log_z):
        failures.append("The weights are all zero or one is infinite: the density over- or underflows at the draws.")
        return failures
    failures += undefined_failures(undefined)
    if e.ess < max(100.0, 0.01 * e.num_proposals):
        failures.append(
            f"The effective sample size is {e.ess:.0f} of {e.num_proposals} proposals: the flow does not fit the "
            f"target. {LONGER}, or use NUTS for this model."
        )
    if e.fold_fraction > 0:
        failures.append(
            f"The map is not invertible at {100 * e.fold_fraction:.2f} % of the proposals (folds or lost precision): "
            "the weights there are wrong. Enable float64 (numpyro.enable_x64()) or lower the learning rate."
        )
    return failures + number_failures(e, rounded)


def rounding(log_w: np.ndarray) -> float:
    """The error, in nats, that the precision of the log weights may bring; 0 where none is finite."""
    finite = log_w[np.isfinite(log_w)]
    heavy = finite[finite > np.max(finite, initial=-np.inf) - 20]  # those that count
    return float(np.max(np.abs(heavy), initial=0.0)) * float(jnp.finfo(jnp.result_type(float)).eps)


def number_failures(e: Evidence, rounded: float) -> list[str]:
    """Whether the error of log Z is large, or that part of it, `rounded`, which precision brings."""
    failures = []
    if e.std_error > 0.2:
        failures.append(f"The standard error of log_z is {e.std_error:.2f} nats: draw more proposals or train longer.")
    if rounded > MAX_ROUNDING:
        failures.append(
            f"Log densities near {e.log_z:.3g} carry rounding errors of about {rounded:.2g} nats in this precision: "
            "enable float64 (numpyro.enable_x64())."
        )
    return failures
