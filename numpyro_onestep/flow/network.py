"""The step-conditioned network: (t, d) → parameters of the injective blocks of one step."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
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


class StepNetwork(nnx.Module):
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
        rngs = nnx.Rngs(rng_key)
        per_dim, per_bump = (num_blocks, dim), (num_blocks, dim, _NUM_BUMPS)
        tiny = _inverse_softplus(1e-12)
        # fewer ridges than dimensions cannot make up for a slope that is missing everywhere
        few = width < dim
        ridge = tiny if identity else _inverse_softplus(_FEW_RIDGES if few else _RIDGE_SLOPE * dim / (0.5 * width))
        slope = _LINEAR_SLOPE + _RIDGE_SLOPE if few else _LINEAR_SLOPE
        bump = tiny if identity else _inverse_softplus(_BUMP_HEIGHT)
        self.directions = nnx.Param(rngs.normal((num_blocks, width, dim)) / math.sqrt(dim))
        centers = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, _NUM_BUMPS), per_bump)
        groups = {
            "log_scale": jnp.full(per_dim, 0.0 if identity else math.log(slope)),
            "shift": jnp.zeros(per_dim),
            "offsets": rngs.normal((num_blocks, width)),
            "ridge": jnp.full((num_blocks, width), ridge),
            "bump": jnp.full(per_bump, bump),
            "log_sharpness": jnp.zeros(per_bump),
            "centers": centers + 0.1 * rngs.normal(per_bump),
        }
        for name, value in groups.items():
            setattr(self, name, nnx.Param(value))
            corrections = jnp.zeros((num_levels, _NUM_WAVES, *value.shape))
            setattr(self, f"{name}_corrections", nnx.Param(corrections))

    def _corrections(self, name: str, t: Array, d: Array) -> Array:
        """The corrections of a group of parameters in the step of length `d` at time `t`; zero at d = 1."""
        corrections: Array = getattr(self, f"{name}_corrections")[...]
        level = jnp.round(-jnp.log2(d)).astype(int)
        waves = jnp.cos(jnp.pi * jnp.arange(_NUM_WAVES) * (t - d / 2))
        own = jax.nn.one_hot(level - 1, len(corrections))[:, None] * waves  # all zero at level 0
        return jnp.tensordot(own, corrections, axes=2)

    def _active(self, t: Array, d: Array) -> Array:
        """Which blocks act within (t − d, t], shape (num_blocks, 1): block i does at time 1 − (i + ½)/num_blocks."""
        num_blocks = self.directions[...].shape[0]
        times = 1 - (jnp.arange(num_blocks) + 0.5) / num_blocks
        return ((times > t - d) & (times <= t))[:, None]

    def step(self, t: Array, d: Array) -> BlockParams:
        """The blocks of the step of length `d` that starts at time `t`; leaves have a leading axis of blocks."""
        active = self._active(t, d)
        resting = _RESTING + jnp.log(d)  # in all steps together no more than in one

        def at(name: str, resting: float | Array | None = None, rate: float | Array = 1.0) -> Array:
            value: Array = getattr(self, name)[...]
            if resting is not None:
                value = jnp.where(active.reshape(-1, *[1] * (value.ndim - 1)), value, resting)
            return value + rate * self._corrections(name, t, d)

        return BlockParams(
            scale=jnp.exp(at("log_scale", 0.0, d)),
            shift=at("shift", 0.0, d),
            directions=self.directions[...],
            offsets=at("offsets"),
            ridge=softplus(at("ridge", resting)),
            bump=softplus(at("bump", resting)),
            sharpness=jnp.exp(at("log_sharpness")),
            centers=at("centers"),
        )

    @property
    def num_levels(self) -> int:
        """How many of the budgets 2, 4, 8, … have corrections of their own."""
        return len(self.shift_corrections[...])  # type: ignore[attr-defined]

    def only_corrections(self) -> "StepNetwork":
        """The same tree with ones at the corrections and zeros elsewhere: what refining a finer budget may move."""
        arrays = self.arrays()
        masks = {k: jnp.full_like(v, float(k.endswith("_corrections"))) for k, v in arrays.items()}
        return StepNetwork.from_arrays(masks)

    def arrays(self) -> dict[str, Array]:
        """All parameters by name."""
        return {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "StepNetwork":
        """The network whose `arrays` these are."""
        num_blocks, width, dim = arrays["directions"].shape
        num_levels = len(arrays["shift_corrections"])
        network = cls(dim, num_blocks=num_blocks, width=width, rng_key=jax.random.key(0), num_levels=num_levels)
        for name, value in arrays.items():
            setattr(network, name, nnx.Param(jnp.asarray(value)))
        return network
