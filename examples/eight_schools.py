"""Centered eight schools: NUTS and OneStep side by side, the evidence against its exact value, and a model comparison.

    python examples/eight_schools.py            # a few minutes on two CPU cores
    python examples/eight_schools.py --cache    # compiled programs stay on disk: half as long from the second time on
    python examples/eight_schools.py --smoke    # seconds, for tests: numbers are not meaningful

The data are Rubin's (1981); `tau ~ HalfCauchy(5)`, `mu ~ Normal(0, 5)`. The exact evidence of the hierarchical model
is a quadrature over tau.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from pictures import save

from numpyro_onestep import OneStep, OneStepSampler, compare, enable_compilation_cache, plot_draws, plot_weights

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EXACT_LOG_Z = -31.3113


def hierarchical(error: np.ndarray, effect: np.ndarray) -> None:
    """The schools' effects are drawn from a common normal: the centered parametrisation, hard for NUTS."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, error), obs=effect)


def pooled(error: np.ndarray, effect: np.ndarray) -> None:
    """One effect for all schools."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.plate("school", len(error)):
        numpyro.sample("y", dist.Normal(mu, error), obs=effect)


def unpooled(error: np.ndarray, effect: np.ndarray) -> None:
    """An effect of its own for every school."""
    with numpyro.plate("school", len(error)):
        theta = numpyro.sample("theta", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(theta, error), obs=effect)


def run_onestep(
    model: Callable, seed: int, num_warmup: int, num_samples: int, **options: Any
) -> tuple[OneStepSampler, float]:
    """Train and draw, with default settings but for the smoke's; seconds include the base fit and compilation."""
    kernel = OneStep(model, **options)
    sampler = OneStepSampler(kernel, num_warmup=num_warmup, num_samples=num_samples)
    start = time.perf_counter()
    sampler.run(jax.random.key(seed), ERROR, EFFECT)
    return sampler, time.perf_counter() - start


def run_nuts(num_warmup: int, num_samples: int) -> tuple[MCMC, float]:
    """NUTS on the same model, as a user would run it."""
    nuts = MCMC(
        NUTS(hierarchical, target_accept_prob=0.95),
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = time.perf_counter()
    nuts.run(jax.random.key(1), ERROR, EFFECT)
    jax.block_until_ready(nuts.get_samples())
    return nuts, time.perf_counter() - start


def save_picture(sampler: OneStepSampler, nuts: MCMC, path: Path) -> None:
    """Draws against NUTS, and the weights."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ours, reference = (
        {"log tau": np.log(s["tau"]), "theta[0]": s["theta"][:, 0]} for s in (sampler.get_samples(), nuts.get_samples())
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    plot_draws(ours, reference, ("theta[0]", "log tau"), left)
    plot_weights(sampler, ax=right)
    figure.tight_layout()
    save(figure, path)


def main() -> None:
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few iterations only")
    parser.add_argument("--cache", action="store_true", help="keep compiled programs on disk, for the next time")
    parser.add_argument("--picture", type=Path, default=Path("eight_schools.png"))
    options = parser.parse_args()
    if options.cache:
        enable_compilation_cache()
    num_warmup, num_samples = (10, 100) if options.smoke else (1000, 1000)

    # of a smoke's seconds most would be compilation
    few: dict[str, Any] = {"width": 16, "num_blocks": 1, "bridge": "never"} if options.smoke else {}

    sampler, seconds = run_onestep(hierarchical, 0, num_warmup, num_samples, **few)
    nuts, nuts_seconds = run_nuts(num_warmup, num_samples)
    print("NUTS, target_accept_prob=0.95")
    nuts.print_summary()
    print("OneStep")
    sampler.print_summary()

    print()
    print(sampler.evidence)
    print(f"quadrature    exact {EXACT_LOG_Z}")

    start = time.perf_counter()
    jax.block_until_ready(sampler.draw(jax.random.key(3), 10 * num_samples).log_weights)
    draw_seconds = time.perf_counter() - start
    print(
        f"times         OneStep {seconds:.0f} s, then {10 * num_samples} fresh draws in {draw_seconds:.1f} s; ", end=""
    )
    print(f"NUTS {nuts_seconds:.0f} s, {int(nuts.get_extra_fields()['diverging'].sum())} divergences")

    others = {"no pooling": unpooled} if options.smoke else {"pooled": pooled, "no pooling": unpooled}
    few |= {"coverage_audit": False} if options.smoke else {}
    rivals = {name: run_onestep(model, 4, num_warmup, num_samples, **few)[0] for name, model in others.items()}
    table = compare({"hierarchical": sampler, **rivals})
    print()
    print(table)

    save_picture(sampler, nuts, options.picture)
    print(f"\nPicture: {options.picture}")


if __name__ == "__main__":
    main()
