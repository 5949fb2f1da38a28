"""The step-conditioned network: (t, d) → parameters of the injective blocks of one step."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.nn import softplus

from numpyro_onestep.flow.block import BlockParams

__all__ = ["StepNetwork"]

_NUM_WAVES = 4  # features of time at each of them
_RESTING = -14.0  # raw height of the ridges and bumps of a block at rest: next to nothing, yet it can grow
_NUM_BUMPS = 8
# Mean slopes at initialisation: linear .45, bumps .23, ridges .32; together 1, so that a block starts near the
# identity with room to contract (a positive definite Jacobian cannot go below its linear part).
_LINEAR_SLOPE, _BUMP_HEIGHT, _RIDGE_SLOPE = 0.45, 0.1, 0.32
_FEW_RIDGES = 0.01  # their coefficients where they are fewer than the dimensions


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y)) if y < 30 else y


@jax.tree_util.register_pytree_with_keys_class
class StepNetwork:
    """A step of length d at time t, as a composition of `num_blocks` injective blocks.

    The one-step map (t = d = 1) has its own full set of parameters. Its blocks act one after the other, each in its own
    share of the time from 1 to 0. In a shorter step the blocks whose time has come act as in the one-step map and the
    others rest at the identity, so that every budget is the same map until its corrections are trained. The corrections
    of all parameters but the ridge directions are, at each step length, a cosine series in time: budgets do not disturb
    one another.

    Args:
        dim: dimension D of the state.
        num_blocks: blocks in one step.
        width: number of ridge directions h of a block.
        rng_key: random key of the initial values; nothing random is kept.
        num_levels: budgets of 2, 4, …, 2^num_levels steps have corrections of their own; all others are the same map.
        identity: start at the exact identity (to working precision), the untrained sampler, instead of near it.
    """

    def __init__(
        self, dim: int, *, num_blocks: int, width: int, rng_key: Array, num_levels: int = 0, identity: bool = False
    ):
        keys = [random.fold_in(rng_key, i) for i in range(3)]
        per_dim, per_bump = (num_blocks, dim), (num_blocks, dim, _NUM_BUMPS)
        tiny = _inverse_softplus(1e-12)
        # fewer ridges than dimensions cannot make up for a slope that is missing everywhere
        few = width < dim
        ridge = tiny if identity else _inverse_softplus(_FEW_RIDGES if few else _RIDGE_SLOPE * dim / (0.5 * width))
        slope = _LINEAR_SLOPE + _RIDGE_SLOPE if few else _LINEAR_SLOPE
        bump = tiny if identity else _inverse_softplus(_BUMP_HEIGHT)
        directions = random.normal(keys[0], (num_blocks, width, dim)) / math.sqrt(dim)
        centers = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, _NUM_BUMPS), per_bump)
        groups = {
            "log_scale": jnp.full(per_dim, 0.0 if identity else math.log(slope)),
            "shift": jnp.zeros(per_dim),
            "offsets": random.normal(keys[1], (num_blocks, width)),
            "ridge": jnp.full((num_blocks, width), ridge),
            "bump": jnp.full(per_bump, bump),
            "log_sharpness": jnp.zeros(per_bump),
            "centers": centers + 0.1 * random.normal(keys[2], per_bump),
        }
        corrections = {
            f"{name}_corrections": jnp.zeros((num_levels, _NUM_WAVES, *value.shape)) for name, value in groups.items()
        }
        self._arrays = {"directions": directions, **groups, **corrections}

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """As one dict of arrays."""
        return ((jax.tree_util.GetAttrKey("arrays"), self._arrays),), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> "StepNetwork":
        """The inverse."""
        network = object.__new__(cls)
        (network._arrays,) = children
        return network

    def _corrections(self, name: str, t: Array, d: Array) -> Array:
        """The corrections of a group of parameters in the step of length `d` at time `t`; zero at d = 1."""
        corrections: Array = self._arrays[f"{name}_corrections"]
        level = jnp.round(-jnp.log2(d)).astype(int)
        waves = jnp.cos(jnp.pi * jnp.arange(_NUM_WAVES) * (t - d / 2))
        own = jax.nn.one_hot(level - 1, len(corrections))[:, None] * waves  # all zero at level 0
        return jnp.tensordot(own, corrections, axes=2)

    def _active(self, t: Array, d: Array) -> Array:
        """Which blocks act within (t − d, t], shape (num_blocks, 1): block i does at time 1 − (i + ½)/num_blocks."""
        num_blocks = len(self._arrays["directions"])
        times = 1 - (jnp.arange(num_blocks) + 0.5) / num_blocks
        return ((times > t - d) & (times <= t))[:, None]

    def step(self, t: Array, d: Array) -> BlockParams:
        """The blocks of the step of length `d` that starts at time `t`; leaves have a leading axis of blocks."""
        active = self._active(t, d)
        resting = _RESTING + jnp.log(d)  # in all steps together no more than in one

        def at(name: str, resting: float | Array | None = None, rate: float | Array = 1.0) -> Array:
            value = self._arrays[name]
            if resting is not None:
                value = jnp.where(active.reshape(-1, *[1] * (value.ndim - 1)), value, resting)
            return value + rate * self._corrections(name, t, d)

        return BlockParams(
            scale=jnp.exp(at("log_scale", 0.0, d)),
            shift=at("shift", 0.0, d),
            directions=self._arrays["directions"],
            offsets=at("offsets"),
            ridge=softplus(at("ridge", resting)),
            bump=softplus(at("bump", resting)),
            sharpness=jnp.exp(at("log_sharpness")),
            centers=at("centers"),
        )

    @property
    def num_levels(self) -> int:
        """How many of the budgets 2, 4, 8, … have corrections of their own."""
        return len(self._arrays["shift_corrections"])

    def only_corrections(self) -> "StepNetwork":
        """The same tree with ones at the corrections and zeros elsewhere: what refining a finer budget may move."""
        arrays = self.arrays()
        masks = {k: jnp.full_like(v, float(k.endswith("_corrections"))) for k, v in arrays.items()}
        return StepNetwork.from_arrays(masks)

    def arrays(self) -> dict[str, Array]:
        """All parameters by name."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "StepNetwork":
        """The network whose `arrays` these are."""
        return cls.tree_unflatten(None, ({name: jnp.asarray(value) for name, value in arrays.items()},))
