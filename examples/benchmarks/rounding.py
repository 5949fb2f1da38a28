"""What single precision costs the log density of many rows, and log Z with it.

    python examples/benchmarks/rounding.py

Likelihoods of many rows at 200 draws around the truth, in float32, minus the same in float64: as NumPyro adds them up,
and as this package does (`traces/sums.py`). Prints mean and standard deviation of the difference in nats. The mean,
lost by all draws alike, is an error of log Z; what differs from draw to draw is in the spread of the weights and
averages out, but for half its variance. Then what is left of the mean when that of 32 other draws is put right, as
`Evidence` does, and the error stated for it. "cells" is a table of 1000 columns with one rate for all, as rows of a
group have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.traces.sums import exact_sums

NUM_DRAWS, NUM_COMPARED, DIM = 200, 32, 20
Terms = Callable[[Any, type], Any]


def likelihoods(num_rows: int) -> tuple[dict[str, Terms], np.ndarray]:
    """By name, the log likelihood's terms as a function of coefficients and a precision; and draws of coefficients."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(num_rows, DIM)).astype(np.float32), 0.5 * rng.normal(size=DIM)
    predicted = x @ truth
    value = (predicted + 1.3 * rng.normal(size=num_rows)).astype(np.float32)
    label, count = rng.random(num_rows) < 1 / (1 + np.exp(-predicted)), rng.poisson(np.exp(0.5 * predicted))
    cell = rng.random((num_rows // 1000, 1000)) < 0.3

    terms: dict[str, Terms] = {
        "normal": lambda b, dtype: dist.Normal(x.astype(dtype) @ b, jnp.exp(b[0])).log_prob(value.astype(dtype)),
        "logistic": lambda b, dtype: dist.Bernoulli(logits=x.astype(dtype) @ b).log_prob(label),
        "counts": lambda b, dtype: dist.Poisson(jnp.exp(0.5 * (x.astype(dtype) @ b))).log_prob(count.astype(dtype)),
        "cells": lambda b, dtype: dist.Bernoulli(logits=b[0].astype(dtype)).log_prob(cell),
    }
    return terms, (truth + rng.normal(size=(NUM_DRAWS, DIM)) / np.sqrt(num_rows)).astype(np.float32)


def main() -> None:
    """Measure and print."""
    print(f"{'rows':>8} {'likelihood':12} {'log density':>12} {'plain sum':>18} {'ours':>18} {'left':>9} {'stated':>8}")
    for num_rows in (50_000, 100_000, 300_000):
        of, draws = likelihoods(num_rows)
        for name, terms in of.items():
            plain = lambda b, terms=terms: jnp.sum(terms(b, np.float32))  # noqa: E731
            with jax.enable_x64(True):
                true = jax.jit(lambda b, terms=terms: jnp.sum(terms(b, np.float64)))
                exact = np.array([float(true(b.astype(np.float64))) for b in draws])
            both = jax.jit(lambda b, plain=plain: (plain(b), exact_sums(plain, b)))
            lost = np.array([both(b) for b in draws], np.float64) - exact[:, None]
            shown = "".join(f"{np.mean(each):9.4f} ±{np.std(each):7.4f}" for each in lost.T)
            put_right, stated = log_mean_weight(-lost[:NUM_COMPARED, 1])
            left = np.mean(lost[NUM_COMPARED:, 1]) + put_right
            print(f"{num_rows:8} {name:12} {np.mean(exact):12.0f} {shown} {left:9.4f} {stated:8.4f}", flush=True)


if __name__ == "__main__":
    main()
