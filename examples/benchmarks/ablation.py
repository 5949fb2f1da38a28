"""What each part of the method buys: the same problems with one part changed at a time.

    python examples/benchmarks/ablation.py                                     # everything on the default problems
    python examples/benchmarks/ablation.py funnel --variants default no_bumps  # one problem, two variants
    python examples/benchmarks/ablation.py --seed 1 --json ablation.jsonl      # resumable

Every variant trains for the same number of iterations, without the audit; where training anneals an iteration has half
as many optimiser steps again. `report.py` makes the table. Variants with finer budgets have a row for each.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import rows as rows_
from jax import Array, random
from problems import ABLATED
from run import measure

from numpyro_onestep import OneStep
from numpyro_onestep.base import distribution as base
from numpyro_onestep.base import search as base_search
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow import block, steps
from numpyro_onestep.flow import network as network_
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.training import losses, optimizer
from numpyro_onestep.training.losses import Consistency, Loss, PathGradient
from numpyro_onestep.training.plan import Plan

SHOWN = ("ess", "log_z_error", "std_error", "elbo_gap", "pareto_k", "folds", "folds_inflated", "seconds")


@dataclass(frozen=True)
class OrdinaryGradient:
    """−DF-ELBO itself, differentiated through the log-determinants; of base draws as they are, none stretched."""

    num_steps: int = 1
    batch_size: int = 128

    def __call__(
        self, network: StepNetwork, teacher: StepNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """The mean over base draws; those that fold or leave the support are left out."""
        x0 = base.sample(problem.base, rng_key, self.batch_size)
        blocks = steps.blocks_of(network, self.num_steps)
        y, log_det = jax.vmap(lambda x: steps.forward_and_log_det(blocks, x))(x0)
        log_p = jax.vmap(
            lambda y: annealing * problem.target.value(y) + (1 - annealing) * base.log_prob(problem.base, y)
        )
        terms = log_p(y) + log_det
        return -jnp.mean(jnp.where(jnp.isfinite(terms), terms, 0.0))


@dataclass(frozen=True)
class Barrier:
    """Keeps the smallest eigenvalue of every block's Jacobian above .1 on base draws stretched by up to 2."""

    weight: float = 100.0
    batch_size: int = 16  # exact eigenvalues are dear

    def __call__(
        self, network: StepNetwork, teacher: StepNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """100·relu(.1 − λ_min), by the Rayleigh quotient of the eigenvector that belongs to it."""
        key_draw, key_stretch = random.split(rng_key)
        stretch = random.uniform(key_stretch, (self.batch_size, 1), minval=1.0, maxval=2.0)
        x = base.sample(problem.base, key_draw, self.batch_size, stretch)

        def smallest(p: BlockParams, x: Array) -> Array:
            jacobian = block.jacobian(p, x)
            vector = jnp.linalg.eigh(jax.lax.stop_gradient(jacobian))[1][:, 0]
            return vector @ jacobian @ vector

        total = jnp.zeros(())
        blocks = network.step(jnp.ones(()), jnp.ones(()))
        for i in range(len(blocks.scale)):
            p = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
            low = jax.vmap(lambda x, p=p: smallest(p, x))(x)
            total = total + self.weight * jnp.mean(jax.nn.relu(0.1 - low))
            x = jax.lax.stop_gradient(jax.vmap(lambda x, p=p: block.apply(p, x))(x))
        return total


class Ablated(OneStep):
    """`OneStep` with other losses."""

    change_loss: Callable[[PathGradient], tuple[Loss, ...]] = staticmethod(lambda loss: (loss,))

    def plan(self, dim: int, work: int = 0) -> Plan:
        """The plan with its path gradients changed."""
        plan = super().plan(dim, work)
        change = type(self).change_loss

        def changed(terms: tuple[Loss, ...]) -> tuple[Loss, ...]:
            lists = [change(loss) if isinstance(loss, PathGradient) else (loss,) for loss in terms]
            return tuple(loss for part in lists for loss in part)

        return replace(plan, stages=tuple(replace(s, losses=changed(s.losses)) for s in plan.stages))


def with_losses(change: Callable[[PathGradient], tuple[Loss, ...]]) -> type[OneStep]:
    """A kernel whose path gradients are replaced."""
    return type("Ablated", (Ablated,), {"change_loss": staticmethod(change)})


def broad(b: Base) -> Base:
    """No whitening: Normal(0, 3) in every unconstrained coordinate, annealed to the target."""
    dim = b.dim
    return base.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, dim)), 3.0 * jnp.eye(dim)[None]), annealed=True)


def free_signs(p: BlockParams) -> BlockParams:
    """Ridges of either sign: the raw parameter in place of its softplus, with the same start."""
    h, dim = p.directions.shape[-2:]
    start = network_._RIDGE_SLOPE * dim / (0.5 * h)
    raw = p.ridge + jnp.log(-jnp.expm1(-p.ridge))  # the inverse of softplus
    free = start + raw - jnp.log(jnp.expm1(start))
    return p._replace(ridge=jnp.where(p.ridge < 1e-9, p.ridge, free))  # the identity stays itself


def at_once(progress: Array) -> Array:
    """The target itself from the start; rate and number of optimiser steps stay those of an annealed training."""
    return jnp.ones_like(progress)


def held_to_itself(state_weight: float, volume_weight: float) -> Callable[[PathGradient], tuple[Loss, ...]]:
    """Consistency added to the training of the one-step map, whose two half steps are its own average."""

    def change(loss: PathGradient) -> tuple[Loss, ...]:
        return (loss, Consistency(state_weight, volume_weight)) if loss.num_steps == 1 else (loss,)

    return change


def without_tanh(p: BlockParams) -> BlockParams:
    """Softplus ridges only."""
    split = p.ridge.shape[-1] // 2
    return p._replace(ridge=p.ridge.at[..., split:].set(0.0))


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        about: what it is, for the table.
        kernel: the kernel class.
        base: a change of the base that was found, or None.
        blocks: a change of the blocks of every step, or None.
        patches: other values of the package's own names: module, name, value.
        options: options of the kernel.
        budgets: finer budgets to refine.
    """

    about: str
    kernel: type[OneStep] = OneStep
    base: Callable[[Base], Base] | None = None
    blocks: Callable[[BlockParams], BlockParams] | None = None
    patches: tuple[tuple[Any, str, Any], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()


VARIANTS = {
    "default": Variant("defaults"),
    "ordinary_gradient": Variant(
        "ordinary gradient of the DF-ELBO, no stretched base draws",
        with_losses(lambda loss: (OrdinaryGradient(loss.num_steps, loss.batch_size),)),
    ),
    "no_stretch": Variant("no stretched base draws", with_losses(lambda loss: (replace(loss, wide_fraction=0.0),))),
    "no_cap": Variant(
        "no cap on the longest gradients", patches=((losses, "_cap", partial(losses._cap, factor=1e30)),)
    ),
    "affine": Variant("affine whitening always", patches=((base_search, "_MIN_INFLUENCE", float("inf")),)),
    "dense_scales": Variant(
        "conditional scales wherever they better the base", patches=((base_search, "_MIN_INFLUENCE", 0.0),)
    ),
    "no_whitening": Variant("no whitening: Normal(0, 3) base, annealed", base=broad),
    "no_annealing": Variant("no annealing", patches=((optimizer, "annealing", at_once),)),
    "no_bumps": Variant("no bumps", blocks=lambda p: p._replace(bump=jnp.zeros_like(p.bump))),
    "no_tanh": Variant("no tanh ridges", blocks=without_tanh),
    "no_ridges": Variant("no ridges", blocks=lambda p: p._replace(ridge=jnp.zeros_like(p.ridge))),
    "free_signs": Variant("ridges of free sign, no barrier", blocks=free_signs),
    "barrier": Variant(
        "ridges of free sign, barrier",
        with_losses(lambda loss: (loss, Barrier())),
        blocks=free_signs,
    ),
    "one_state": Variant("state consistency 1 in the one-step map's training", with_losses(held_to_itself(1.0, 0.0))),
    "one_volume": Variant("volume consistency 1 in the one-step map's training", with_losses(held_to_itself(0.0, 1.0))),
    "refined": Variant("refined for 4 and 2, path gradients only", budgets=(2, 4)),
    "state": Variant("refined for 4 and 2, state consistency 1", options={"state_consistency": 1.0}, budgets=(2, 4)),
    "volume": Variant("refined for 4 and 2, volume consistency 1", options={"volume_consistency": 1.0}, budgets=(2, 4)),
    "distilled": Variant(
        "refined for 4, and 2 by state consistency alone",
        with_losses(lambda loss: () if loss.num_steps == 2 else (loss,)),
        options={"state_consistency": 1.0},
        budgets=(2, 4),
    ),
    "one_wave": Variant(
        "refined for 4 and 2, corrections blind to time", patches=((network_, "_NUM_WAVES", 1),), budgets=(2, 4)
    ),
}


@contextlib.contextmanager
def changed(variant: Variant) -> Iterator[None]:
    """The package with the variant's changes of base and blocks; compiled programs know of neither and are given up."""
    with contextlib.ExitStack() as stack:
        if variant.blocks is not None:
            change_blocks, step = variant.blocks, StepNetwork.step
            changed_step = lambda self, t, d: change_blocks(step(self, t, d))  # noqa: E731
            stack.enter_context(mock.patch.object(StepNetwork, "step", changed_step))
        for module, name, value in variant.patches:
            stack.enter_context(mock.patch.object(module, name, value))
        if variant.base is not None:
            change_base, search = variant.base, base_search.search
            changed_search = lambda *args: change_base(search(*args))  # noqa: E731
            stack.enter_context(mock.patch.object(base_search, "search", changed_search))
        jax.clear_caches()
        stack.callback(jax.clear_caches)
        yield


def rows_of(name: str, key: str, seed: int, num_warmup: int) -> list[dict[str, Any]]:
    """The rows of one variant on one problem."""
    variant = VARIANTS[key]
    options = {**variant.options, "coverage_audit": False}
    with changed(variant):
        rows = list(
            measure(name, seed, variant.budgets, kernel_class=variant.kernel, options=options, num_warmup=num_warmup)
        )
    about = {"variant": key, "about": variant.about, "iterations": num_warmup}
    return [{**row, **about} for row in rows]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=ABLATED)
    parser.add_argument("--variants", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=1000, help="of warmup")
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it already holds")
    options = parser.parse_args()
    known = rows_.read(options.json)
    done = {(row["problem"], row["variant"], row["seed"], row["iterations"]) for row in known}
    print(f"{'problem':18}{'variant':20}{'nfe':>4}" + "".join(f"{c:>15}" for c in SHOWN), flush=True)
    for name in options.problems:
        for key in options.variants:
            if (name, key, options.seed, options.iterations) in done:
                continue
            rows = rows_of(name, key, options.seed, options.iterations)
            for row in rows:
                numbers = "".join(f"{row[c]:15.4f}" for c in SHOWN)
                print(f"{name:18}{key:20}{row['nfe']:4}{numbers}", flush=True)
            rows_.append(options.json, rows)


if __name__ == "__main__":
    main()
