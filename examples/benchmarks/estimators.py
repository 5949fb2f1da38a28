"""The paper's sampler and three estimates of its evidence, at every budget: why the exact determinant is needed.

    python examples/benchmarks/estimators.py                            # on a banana, and saves the figure
    python examples/benchmarks/estimators.py banana funnel mixture_8    # and on benchmark problems
    python examples/benchmarks/estimators.py --iterations 300           # a quick look
    python examples/benchmarks/estimators.py --json rows.jsonl          # for report.py; resumable
    python examples/benchmarks/estimators.py --recipes                  # other objectives, T, noise, inputs
    python examples/benchmarks/estimators.py --log-dets                 # exact and estimated, by dimension

A control is trained on reverse KL over paths with state consistency, as in arXiv 2512.05251, from a Gaussian base: on a
banana in two dimensions from Normal(0, 1), on the benchmark problems, those with a potential function, from
Normal(0, 3). Then, with 1, 2, 4, … evaluations a draw:

- path: ELBO and log Z of the discrete forward and backward kernels;
- trace: the deterministic flow weighted with d·(Hutchinson trace of the velocity's Jacobian), one probe a step;
- exact: the deterministic flow weighted with log|det| of each step, and the share of draws at which it has a negative
  determinant, hence folds; the folds themselves may be more.

For a fold-free map the exact estimate is unbiased. The trace is not, at few steps; the path's ELBO collapses there.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
import rows as rows_
from jax import Array, lax, random
from jax.flatten_util import ravel_pytree
from problems import PROBLEMS

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.draws.weights import effective_sample_size, log_mean_weight
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.paper import log_det as log_det_
from numpyro_onestep.paper import sde
from numpyro_onestep.paper.control import ControlNetwork
from numpyro_onestep.paper.losses import LogVariance, PathConsistency, PathKL, control_of
from numpyro_onestep.paper.noise import cosine_noise

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def banana() -> Problem:
    """A standard normal bent along a parabola, normalised, on a standard normal base."""

    def log_density(x: Array) -> Array:
        bent = x[1] - 0.5 * (x[0] ** 2 - 1)
        return -0.5 * x[0] ** 2 - 0.5 * (bent / 0.5) ** 2 - jnp.log(2 * jnp.pi * 0.5)

    return Problem(gaussian_base(2, 1.0), safe_log_density(log_density))


def gaussian_base(dim: int, sd: float) -> base_.Base:
    """Normal(0, sd) in every coordinate."""
    return base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, dim)), sd * jnp.eye(dim)[None]))


def problem_of(name: str) -> Problem:
    """The banana, or a benchmark problem shifted so that log Z = 0."""
    if name == "banana":
        return banana()
    problem = PROBLEMS[name]() if name in PROBLEMS else None
    if problem is None or problem.potential_fn is None:
        raise SystemExit(f"No problem with a potential function is called {name}: take funnel or mixture_8.")
    potential_fn, log_z = problem.potential_fn, problem.log_z
    return Problem(gaussian_base(len(problem.init_params), 3.0), safe_log_density(lambda z: -potential_fn(z) - log_z))


@dataclass(frozen=True)
class Recipe:
    """How the control is trained: path objective and consistency at T steps, noise, whether it sees the score."""

    objective: type[PathKL] | type[LogVariance] = PathKL
    num_steps: int = 64
    noise: str = "cosine"
    score: bool = True
    state_weight: float = 1.0
    volume_weight: float = 0.0


def train(problem: Problem, rng_key: Array, num_iterations: int, recipe: Recipe) -> ControlNetwork:
    """The averaged network after training on the path objective with consistency, whose weight warms up."""
    key_network, rng_key = random.split(rng_key)
    network = ControlNetwork(problem.base.dim, width=64, rng_key=key_network, clip=100.0 if recipe.score else 0.0)
    params, unravel = ravel_pytree(network)
    path = recipe.objective(num_steps=recipe.num_steps, noise=recipe.noise)
    weights = {"state_weight": recipe.state_weight, "volume_weight": recipe.volume_weight}
    consistency = PathConsistency(num_steps=recipe.num_steps, noise=recipe.noise, **weights)
    schedule = optax.cosine_decay_schedule(3e-3, num_iterations, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def total(params: Array, average: Array, key: Array, progress: Array) -> Array:
        student, teacher = unravel(params), unravel(average)
        warm = jnp.clip(2 * progress - 0.5, 0.0, 1.0)
        args = student, teacher, problem
        loss = path(*args, key, progress)
        if not any(weights.values()):
            return loss
        return loss + warm * consistency(*args, random.fold_in(key, 1), progress)

    def body(carry: tuple, i: Array) -> tuple[tuple, None]:
        params, average, state = carry
        grads = jax.grad(total)(params, average, random.fold_in(rng_key, i), i / num_iterations)
        updates, state = optimizer.update(jnp.where(jnp.isfinite(grads), grads, 0.0), state)
        params = params + updates
        return (params, 0.99 * average + 0.01 * params, state), None

    run = jax.jit(lambda params: lax.scan(body, (params, params, optimizer.init(params)), jnp.arange(num_iterations)))
    return unravel(run(params)[0][1])


def estimates(
    network: ControlNetwork, problem: Problem, rng_key: Array, num_steps: int, noise: str = "cosine"
) -> dict[str, float]:
    """ELBO and log Z of the three estimators from the same number of draws."""
    num_draws = 4096
    key_path, key_base, key_probe = random.split(rng_key, 3)
    loss = PathKL(num_steps=num_steps, batch_size=num_draws, noise=noise)
    control, d = control_of(network, problem), jnp.asarray(1.0 / num_steps)
    path = jax.jit(lambda key: loss.log_weights(network, problem, loss.paths(network, problem, key)))(key_path)

    def flow(x: Array, key: Array) -> tuple[Array, Array, Array]:
        def body(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
            t, key = inputs
            step = lambda x: sde.flow_step(control, loss.beta, x, t, d)  # noqa: E731
            probe = random.rademacher(key, x.shape, x.dtype)
            after, change = jax.jvp(step, (x,), (probe,))
            sign, log_det = jnp.linalg.slogdet(jax.jacfwd(step)(x))
            return after, (probe @ change - x.shape[0], log_det, sign < 0)

        times = 1 - d * jnp.arange(num_steps)
        y, (trace, log_det, folded) = lax.scan(body, x, (times, random.split(key, num_steps)))
        rest = problem.target.value(y) - base_.log_prob(problem.base, x)
        return rest + jnp.sum(trace), rest + jnp.sum(log_det), jnp.any(folded)

    x0 = base_.sample(problem.base, key_base, num_draws)
    trace, exact, folded = jax.jit(jax.vmap(flow))(x0, random.split(key_probe, num_draws))
    row: dict[str, float] = {"folds": float(jnp.mean(folded))}
    for name, log_w in (("path", path), ("trace", trace), ("exact", exact)):
        row[f"{name}_elbo"] = float(jnp.mean(log_w))
        row[f"{name}_log_z"], row[f"{name}_se"] = log_mean_weight(log_w)
        row[f"{name}_ess"] = float(effective_sample_size(log_w)) / num_draws
    return row


def draw_figure(rows: dict[int, dict[str, float]], path: Path) -> None:
    """ELBO and log Z against the budget."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    labels = {"path": "discrete kernels", "trace": "flow, Hutchinson trace", "exact": "flow, exact determinant"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, kind, title in zip(axes, ("elbo", "log_z"), ("ELBO", "log Z estimate"), strict=True):
        for name, label in labels.items():
            axis.plot(BUDGETS, [rows[n][f"{name}_{kind}"] for n in BUDGETS], "o-", label=label)
        axis.axhline(0, color="black", linewidth=1, label="exact log Z")
        axis.set(xscale="log", xlabel="evaluations a draw", ylabel="nats", title=title)
        axis.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
        axis.set_yscale("symlog", linthresh=0.1)
        axis.minorticks_off()
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


RECIPES = {
    "reverse KL, T = 64, cosine noise, state consistency": Recipe(),
    "T = 16": Recipe(num_steps=16),
    "T = 32": Recipe(num_steps=32),
    "T = 128": Recipe(num_steps=128),
    "log-variance": Recipe(objective=LogVariance),
    "linear noise": Recipe(noise="linear"),
    "control without the score": Recipe(score=False),
    "no consistency": Recipe(state_weight=0.0),
    "state and volume consistency": Recipe(volume_weight=1.0),
}


def compare_recipes(problem: Problem, num_iterations: int) -> None:
    """One row a recipe and seed: path ELBO at T steps; of the flow at T steps and one step ELBO, log Z and folds."""
    print("| recipe | seed | path ELBO at T | flow ELBO at T | flow ELBO at 1 | flow log Z at 1 | folds at 1 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, recipe in RECIPES.items():
        for seed in (0, 1):
            network = train(problem, random.key(seed), num_iterations, recipe)
            finest, one = (
                estimates(network, problem, random.key(seed + n), n, recipe.noise) for n in (recipe.num_steps, 1)
            )
            numbers = finest["path_elbo"], finest["exact_elbo"], one["exact_elbo"], one["exact_log_z"], one["folds"]
            print(f"| {name} | {seed} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |", flush=True)


def compare_log_dets() -> None:
    """One row a dimension: log-determinants of a random control's step at 64 points, exact and by 1 and 8 probes.

    The standard deviation of an estimate about the exact value, and its time as a share of that of the exact one.
    """
    print("| dimension | exact, mean | 1 probe: sd | 8 probes: sd | 1 probe: time | 8 probes: time |")
    print("|---:|---:|---:|---:|---:|---:|")
    d = jnp.asarray(1 / 8)
    for dim in (16, 64, 256, 1024):
        key, *keys = random.split(random.key(dim), 3)
        network = ControlNetwork(dim, width=64, rng_key=keys[0])
        network.outer.kernel[...] = random.normal(keys[1], network.outer.kernel.shape) / 8
        control = lambda x, t, d, network=network: network(x, t, d, -x)  # noqa: E731
        step = lambda x, control=control: sde.flow_step(control, cosine_noise, x, d * 4, d)  # noqa: E731
        points, keys = random.normal(key, (64, dim)), random.split(key, 64)
        exact, time_exact = timed(lambda x, k, step=step: log_det_.exact(step, x), points, keys)
        errors, times = [], []
        for num in (1, 8):
            estimate = lambda x, k, step=step, num=num: log_det_.estimate(step, x, k, num)  # noqa: E731
            values, taken = timed(estimate, points, keys)
            errors.append(float(np.std(values - exact)))
            times.append(taken / time_exact)
        print(f"| {dim} | {np.mean(exact):.3f} | " + " | ".join(f"{x:.3f}" for x in errors + times) + " |", flush=True)


def timed(function: Callable[[Array, Array], Array], points: Array, keys: Array) -> tuple[np.ndarray, float]:
    """The function at all points, and the seconds of the fastest of three compiled calls."""
    run = jax.jit(jax.vmap(function))
    values, seconds = np.asarray(run(points, keys)), []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(run(points, keys))
        seconds.append(time.perf_counter() - start)
    return values, min(seconds)


def main() -> None:
    """Train, estimate, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=["banana"])
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", action="store_true", help="print a table of training recipes instead")
    parser.add_argument("--log-dets", action="store_true", help="print a table of exact and estimated log-determinants")
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it holds")
    parser.add_argument("--figure", type=Path, default=DOCS / "figures" / "estimators.png")
    options = parser.parse_args()
    if options.recipes or options.log_dets:
        if options.json:
            parser.error("--json is for the estimators, not for --recipes or --log-dets")
        if options.recipes:
            compare_recipes(problem_of("banana"), options.iterations)
        else:
            compare_log_dets()
        return
    done = [(row["estimators"], row["seed"], row["iterations"]) for row in rows_.read(options.json)]
    names = [f"{name}_{kind}" for name in ("path", "trace", "exact") for kind in ("elbo", "log_z", "se", "ess")]
    print(f"{'problem':16}{'nfe':>4}" + "".join(f"{name:>13}" for name in names) + f"{'folds':>9}")
    for name in options.problems:
        if (name, options.seed, options.iterations) in done:
            print(f"{name:16} is in {options.json} already")
            continue
        problem, rows = problem_of(name), {}
        network = train(problem, random.key(options.seed), options.iterations, Recipe())
        for n in BUDGETS:
            rows[n] = row = estimates(network, problem, random.key(options.seed + n), n)
            numbers = "".join(f"{row[column]:13.4f}" for column in names)
            print(f"{name:16}{n:4}{numbers}{row['folds']:9.4f}", flush=True)
        about = {"estimators": name, "seed": options.seed, "iterations": options.iterations}
        rows_.append(options.json, [{**about, "jaxlib": jaxlib.__version__, "nfe": n, **r} for n, r in rows.items()])
        if name == "banana":
            draw_figure(rows, options.figure)


if __name__ == "__main__":
    main()
