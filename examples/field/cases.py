"""The field cases: models in the manner of people's reports, each with its data."""

from collections.abc import Callable
from dataclasses import replace

import edges
import groups
import measurement
import several_modes
import space_and_time
from answer_targets import LARGE, LOG_Z, TARGETS
from entry import Entry
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam

__all__ = ["FIELD"]


def of_benchmark(name: str, *compared: str) -> Entry:
    """A target of the benchmarks, with its data of seed 0."""
    model, args = (TARGETS | LARGE)[name](0)
    return Entry(model, args, compared, log_z=LOG_Z.get(name, float("nan")))


def uncentered(model: Callable[..., None], *sites: str) -> Callable[..., None]:
    """The same model, the sites in units of their scales."""
    return reparam(model, config={site: LocScaleReparam(0) for site in sites})


FIELD: dict[str, Entry] = {
    "edge": Entry(edges.edge, (), ("x",), exactly=edges.edge_exactly),
    "limit": Entry(edges.amounts, (edges.AMOUNTS,), ("amount",), exactly=edges.amounts_exactly),
    "serial numbers": Entry(edges.total, (edges.SERIALS,), ("number",), exactly=edges.total_exactly),
    "bounds that move": Entry(edges.fractions, (), ("first", "others"), no_data=True),
    "change point": Entry(
        edges.change_point, (edges.counts(),), ("before", "after", "time"), exactly=edges.change_point_exactly
    ),
    "sparse wave": Entry(
        several_modes.wave,
        several_modes.velocities(),
        ("log_period", "sine", "cosine", "level"),
        exactly=several_modes.wave_exactly,
    ),
    "faint line": Entry(
        several_modes.faint_line,
        several_modes.spectrum(),
        ("continuum", "center", "log_width", "height"),
        exactly=several_modes.line_exactly,
    ),
    "mirror images": Entry(
        several_modes.mirror, TARGETS["item response"](0)[1], ("signed_slope", "difficulty", "signed_ability")
    ),
    "two lines": Entry(
        several_modes.two_lines,
        several_modes.two_lines_data(),
        ("ordered_share", "ordered_slope", "ordered_intercept", "noise"),
    ),
    "survival in clinics": Entry(groups.survival, groups.clinics(), ("shape", "treatment", "mean", "scale", "effect")),
    "censored lifetimes": Entry(groups.accelerated, groups.lifetimes(), ("intercept", "slopes", "spread")),
    "choices": Entry(groups.choices, groups.preferences(), ("mean", "scale", "taste")),
    "shares": Entry(groups.shares, (groups.votes(),), ("country", "log_concentration", "share")),
    "learning": Entry(
        groups.learning,
        groups.plays(),
        ("mean", "scale", "person_effect"),
        reference=uncentered(groups.learning, "person_effect"),
    ),
    "excess zeros": Entry(groups.excess_zeros, groups.catches(), ("gate", "mean", "scale", "log_rate")),
    "occupancy": Entry(groups.occupancy, groups.detections(), ("intercept", "slope", "detection")),
    "disease map": Entry(space_and_time.disease, space_and_time.cases(), ("intercept", "scale", "shared", "risk")),
    "seasons": Entry(
        space_and_time.seasons,
        (space_and_time.sales(),),
        ("level_scale", "season_scale", "noise", "level", "season"),
    ),
    "classes along a line": Entry(
        space_and_time.classification, space_and_time.classes(), ("log_scale", "log_length", "latent")
    ),
    "ordered grades": Entry(measurement.ordinal, measurement.grades(), ("beta", "spread", "cuts")),
    "measurement error": Entry(
        measurement.measurement_error,
        measurement.measured(),
        ("mean", "scale", "noise", "intercept", "slope"),
        reference=measurement.measurement_error_alone,
        log_z=-169.289,  # of that model, by OneStep, ± .002
    ),
    "outliers": Entry(measurement.robust, measurement.outliers(), ("intercept", "slope", "noise")),
    "item response": of_benchmark("item response", "slope", "difficulty", "ability"),
    "crossed effects": of_benchmark(
        "crossed effects", "intercept", "slope", "respondent_scale", "question_scale", "respondent", "question"
    ),
    "imputation": of_benchmark("imputation", "intercept", "slopes", "mean", "link", "scale", "noise"),
    "latent autoregression": replace(
        of_benchmark("autoregression", "weights", "scale", "noise"), reference=space_and_time.autoregression_alone
    ),
    "regression, 50k rows": of_benchmark("regression, 50k rows", "beta", "noise"),
    "groups, 50k rows": of_benchmark("groups, 50k rows", "center", "scale", "slope", "intercept"),
}
