"""NUTS and OneStep on one model, and how far their draws agree."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from entry import Entry
from jax import random
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, Predictive

from numpyro_onestep import OneStep, OneStepSampler

__all__ = ["FULL", "SMOKE", "Counts", "compare"]

MAX_MEAN_ERROR, MAX_SD_ERROR = 0.15, 15.0


@dataclass(frozen=True)
class Counts:
    """How long to run.

    Attributes:
        num_warmup: of either sampler.
        num_samples: draws of each of the 4 chains, of either sampler; these are timed.
        reference_ess: NUTS is run on, untimed, until every compared element has this effective sample size. With 1000
            the errors of its means are .03 sd and those of its sds, for normals, 2 %.
        max_rounds: but no longer than this many times `num_samples`.
        audit: look for mass that the flow misses, as OneStep does by default.
    """

    num_warmup: int = 1000
    num_samples: int = 1000
    reference_ess: float = 1000.0
    max_rounds: int = 10
    audit: bool = True


FULL = Counts()
SMOKE = Counts(num_warmup=5, num_samples=20, reference_ess=0.0, max_rounds=1, audit=False)

Elements = dict[str, np.ndarray]  # name of an element, such as beta[3] → its draws, shape (chains, draws)


def elements(samples: Any, sites: tuple[str, ...]) -> Elements:
    """Every element of the sites under a name of its own, from samples grouped by chain."""
    draws = {}
    for site in sites:
        value = np.asarray(samples[site], np.float64)
        for index in np.ndindex(value.shape[2:]):
            draws[site + "".join(f"[{i}]" for i in index)] = value[(slice(None), slice(None), *index)]
    return draws


def run_nuts(model: Any, entry: Entry, seed: int, counts: Counts) -> tuple[Elements, float, str]:
    """Draws of NUTS, the seconds of its first round, and what is wrong with the draws, if anything."""
    mcmc = MCMC(
        NUTS(model),
        num_warmup=counts.num_warmup,
        num_samples=counts.num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = time.perf_counter()
    mcmc.run(random.key(seed), *entry.args)
    jax.block_until_ready(mcmc.get_samples())
    seconds = time.perf_counter() - start

    draws = elements(mcmc.get_samples(group_by_chain=True), entry.compared)
    divergences = int(np.sum(mcmc.get_extra_fields()["diverging"]))
    for _ in range(1, counts.max_rounds):
        if min(float(effective_sample_size(x)) for x in draws.values()) >= counts.reference_ess:
            break
        state: Any = mcmc.last_state
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, *entry.args)
        more = elements(mcmc.get_samples(group_by_chain=True), entry.compared)
        draws = {name: np.concatenate([x, more[name]], axis=1) for name, x in draws.items()}
        divergences += int(np.sum(mcmc.get_extra_fields()["diverging"]))

    ess = min(float(effective_sample_size(x)) for x in draws.values())
    r_hat = max(float(split_gelman_rubin(x)) for x in draws.values())
    troubles = [f"{divergences} divergences"] if divergences else []
    troubles += [f"R-hat {r_hat:.2f}"] if r_hat > 1.05 else []
    troubles += [f"ESS {ess:.0f}"] if ess < counts.reference_ess else []
    return draws, seconds, ", ".join(troubles)


def exact(entry: Entry, seed: int, num_draws: int = 100_000) -> tuple[Elements, float] | None:
    """Exact draws, as one chain, and log Z; none where there is no other way than to sample."""
    if entry.exactly is not None:
        samples, log_z = entry.exactly(num_draws, np.random.default_rng(seed))
    elif entry.no_data:
        samples, log_z = Predictive(entry.model, num_samples=num_draws)(random.key(seed), *entry.args), 0.0
    else:
        return None
    return elements({site: samples[site][None] for site in entry.compared}, entry.compared), log_z


def run_onestep(entry: Entry, seed: int, counts: Counts) -> tuple[Elements, OneStepSampler, float]:
    """Draws of OneStep with default settings, the sampler, and the seconds of training and drawing."""
    sampler = OneStepSampler(
        OneStep(entry.model, coverage_audit=counts.audit),
        num_warmup=counts.num_warmup,
        num_samples=counts.num_samples,
        num_chains=4,
        progress_bar=False,
    )
    start = time.perf_counter()
    sampler.run(random.key(seed), *entry.args)
    samples = jax.block_until_ready(sampler.get_samples(group_by_chain=True))
    return elements(samples, entry.compared), sampler, time.perf_counter() - start


def largest(errors: dict[str, float]) -> tuple[float, str]:
    """The largest error, and of which element; nan counts as the largest."""
    name = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    return errors[name], name


def compare(entry: Entry, seed: int, counts: Counts) -> dict[str, Any]:
    """Run both samplers on a model and tell how far they agree: a row of the table.

    The verdict is "agrees" if no mean is off by more than .15 reference sd, no sd by more than 15 %, and log Z, where
    it is known, by no more than three of its errors or .05; else "flagged" if `evidence.reliable` is False, else
    "WRONG".
    """
    known = exact(entry, seed)
    try:
        nuts, nuts_seconds, trouble = run_nuts(entry.model, entry, seed, counts)
    except RuntimeError as error:  # a density with edges may have no start for it
        if known is None:
            raise
        nuts, nuts_seconds, trouble = known[0], float("nan"), str(error).splitlines()[0]
    ours, sampler, seconds = run_onestep(entry, seed, counts)
    reference, log_z = known if known else (nuts, entry.log_z)
    if entry.reference is not None:
        reference, _, more = run_nuts(entry.reference, entry, seed, counts)
        trouble += f"; the reference: {more}" if more else ""

    def errors(draws: Elements) -> tuple[tuple[float, str], tuple[float, str]]:
        means = {name: float(abs(draws[name].mean() - x.mean()) / x.std()) for name, x in reference.items()}
        sds = {name: float(100 * abs(draws[name].std() / x.std() - 1)) for name, x in reference.items()}
        return largest(means), largest(sds)

    (mean_error, worst_mean), (sd_error, worst_sd) = errors(ours)
    if known and np.isfinite(nuts_seconds):
        (nuts_mean, _), (nuts_sd, _) = errors(nuts)
        trouble = f"means {nuts_mean:.2f} sd and sds {nuts_sd:.0f} % off the exact ones; {trouble}".rstrip("; ")
    e = sampler.evidence
    agrees = mean_error <= MAX_MEAN_ERROR and sd_error <= MAX_SD_ERROR
    if np.isfinite(log_z):
        agrees = agrees and abs(e.log_z - log_z) <= max(0.05, 3 * e.std_error)
    return {
        "dim": sum(leaf[0].size for leaf in jax.tree.leaves(sampler.last_state.z)),  # type: ignore[union-attr]
        "mean_error_sd": mean_error,
        "worst_mean": worst_mean,
        "sd_error_percent": sd_error,
        "worst_sd": worst_sd,
        "ess_percent": 100 * e.ess / e.num_proposals,
        "pareto_k": e.pareto_k,
        "evaluations": e.num_evaluations,
        "log_z": e.log_z,
        "std_error": e.std_error,
        "log_z_error": e.log_z - log_z,
        "bulk_ess": min(float(effective_sample_size(x)) for x in ours.values()),
        "nuts_seconds": nuts_seconds,
        "seconds": seconds,
        "nuts_trouble": trouble,
        "reliable": e.reliable,
        "warnings": list(e.warnings),
        "verdict": "agrees" if agrees else "WRONG" if e.reliable else "flagged",
    }
