"""A first look at a model before any run: what is in it, what its evidence is worth, how long a run may take."""

import re
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpyro import handlers
from numpyro.infer import init_to_uniform

from numpyro_onestep.base import modes
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.target import COSTLY_DIM, HEAVY_WORK, Target
from numpyro_onestep.training.plan import Plan
from numpyro_onestep.trust.checks import MAX_ROUNDING, rounding

__all__ = ["Check", "check"]

_NUM_POINTS, _NUM_TIMED = 64, 5
_NUM_ASCENTS = 4
_SPREAD = 0.1  # of the points at which gradients are timed
_MANY_DIMS = 2000
_RANGE = 1.7  # of the seconds foretold, up and down


class Check(NamedTuple):
    """What `OneStep.check` found; `print` it.

    Attributes:
        dim: dimension D of the unconstrained space.
        latent: shape and support of each latent site; empty for a potential function.
        plates: sizes.
        num_observed: observed values; None where they are not known.
        num_whitened: coordinates that are whitened given all others before the flow sees them.
        gradient_seconds: of one gradient of the log density, in a batch, once compiled.
        rounding: of the log density, nats, by the precision in use.
        seconds: from and to which a first run may take on this machine, compilation included.
        remarks: what to know and what to change, in words.
    """

    dim: int
    latent: dict[str, tuple[tuple[int, ...], str]]
    plates: dict[str, int]
    num_observed: int | None
    num_whitened: int
    gradient_seconds: float
    rounding: float
    seconds: tuple[float, float]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        """In words, a line or paragraph each."""
        sites = [f"{name}{list(shape) if shape else ''} {support}" for name, (shape, support) in self.latent.items()]
        rows = [
            ("dimensions", f"{self.dim}" + (f", of which {self.num_whitened} whitened" if self.num_whitened else "")),
            ("latent sites", ", ".join(sites)),
            ("plates", ", ".join(f"{name} {size}" for name, size in self.plates.items())),
            ("observed values", "" if self.num_observed is None else f"{self.num_observed}"),
            ("a gradient", _duration(self.gradient_seconds)),
            ("rounding", f"{self.rounding:.1g} nats of a log density"),
            ("a first run", "about {} to {} on two free cores".format(*map(_duration, self.seconds))),
            *(("remark", remark) for remark in self.remarks),
        ]
        return "\n".join(
            textwrap.fill(text, 110, initial_indent=f"{name:17}", subsequent_indent=17 * " ")
            for name, text in rows
            if text
        )


def check(model: Any, setup: ModelSetup, plan: Plan, rng_key: Array, args: tuple, kwargs: dict[str, Any]) -> Check:
    """Look into a model, time a gradient, and say what a run may need; `model` is None for a potential function.

    Raises:
        RuntimeError: if it is called within a JAX transformation.
    """
    if isinstance(setup.center, Tracer):
        raise RuntimeError("check() measures time: call it outside of `jit` and `vmap`.")
    latent, plates = ({}, {}) if model is None else _sites(model, rng_key, args, kwargs)
    given = args, kwargs
    begin = time.perf_counter()
    setup = setup.find_members(*given)
    target, dim = setup.target(*given), setup.dim
    offsets = np.random.default_rng(0).normal(0, _SPREAD, (_NUM_POINTS, dim))
    start = jnp.zeros(dim) if setup.members else setup.center
    points = jnp.asarray(np.asarray(start) + offsets, setup.center.dtype)
    jax.block_until_ready(_gradients(target, points))
    compiling = time.perf_counter() - begin
    taken = []
    for _ in range(_NUM_TIMED):
        begin = time.perf_counter()
        jax.block_until_ready(_gradients(target, points))
        taken.append((time.perf_counter() - begin) / _NUM_POINTS)
    starts = points[:_NUM_ASCENTS].at[0].set(start)
    lost = rounding(np.asarray(modes.climb(target, starts, jnp.ones_like(starts))[1]))
    middle = _seconds(compiling, float(np.median(taken)), setup, plan)
    return Check(
        dim=dim,
        latent=latent,
        plates=plates,
        num_observed=None if setup.observed is None else len(setup.observed),
        num_whitened=0 if setup.members is None else dim - len(setup.members.rest),
        gradient_seconds=float(np.median(taken)),
        rounding=lost,
        seconds=(middle / _RANGE, middle * _RANGE),
        remarks=tuple(_remarks(setup, lost)),
    )


def _sites(model: Any, rng_key: Array, args: tuple, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The continuous latent sites of a model with shapes and supports, and its plates with sizes."""
    started = handlers.substitute(handlers.seed(model, rng_key), substitute_fn=init_to_uniform)
    trace = handlers.trace(started).get_trace(*args, **kwargs)
    latent, plates = {}, {}
    for name, site in trace.items():
        if site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete:
            latent[name] = np.shape(site["value"]), _words(site["fn"].support)
        elif site["type"] == "plate":
            plates[name] = int(site["args"][0])
    return latent, plates


@jit_once
def _gradients(target: Target, points: Array) -> tuple[Array, Array]:
    return jax.vmap(target.value_and_grad)(points)


def _seconds(compiling: float, gradient: float, setup: ModelSetup, plan: Plan) -> float:
    """What a first run may take: programs of its own, the model in them, gradients, and the algebra of many dimensions.

    The numbers are fitted to the models of `examples/benchmarks/answer_time.py`, which prints both.
    """
    longer = plan.num_replicates * (5 if plan.target_ess == 1 else 1)
    num_gradients = 30_000 if setup.work > HEAVY_WORK else 90_000
    return 22 + 2.4 * compiling + longer * (num_gradients * gradient + 0.12 * max(0, setup.dim - 16))


def _remarks(setup: ModelSetup, lost: float) -> list[str]:
    remarks = [f"The evidence is undefined or not what its name says: {caveat}" for caveat in setup.caveats]
    remarks += [note.removeprefix("note: ") for note in setup.notes]
    if lost > MAX_ROUNDING and not setup.long_sums:  # what those lose is measured after a run, and put right
        remarks.append(
            "Log densities are so large that this precision blurs them: enable float64, numpyro.enable_x64()."
        )
    if setup.idle is not None:
        remarks.append(f"{int(np.sum(setup.idle))} masked entries touch nothing; they get a standard normal density.")
    if setup.dim > _MANY_DIMS:
        remarks.append("So many dimensions have not been tried; try a part of the data first.")
    elif setup.dim > COSTLY_DIM and setup.members is None:
        remarks.append("Above 64 dimensions one evaluation a draw rarely suffices; a bridge then makes up for it.")
    return remarks


def _words(support: Any) -> str:
    """A constraint in words, with its bounds where they are numbers."""
    if hasattr(support, "base_constraint"):  # of an event with several axes
        return _words(support.base_constraint)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(support).__name__.strip("_")).lower()
    bounds = [getattr(support, end, None) for end in ("lower_bound", "upper_bound")]
    shown = [f"{float(bound):.4g}" for bound in bounds if bound is not None and np.ndim(bound) == 0]
    return name if name in ("positive", "unit interval") or not shown else f"{name} {', '.join(shown)}"


def _duration(seconds: float) -> str:
    """Seconds with two digits, in a unit that fits."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.2g} min"
