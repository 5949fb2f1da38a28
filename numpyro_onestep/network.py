"""The step-conditioned network: from (t, d) to the parameters of the blocks of one step."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import softplus

from numpyro_onestep.block import BlockParams

__all__ = ["StepNetwork"]

_NUM_CONDITION_FEATURES = 16
_NUM_BUMPS = 8
# Mean slopes at initialisation: linear .45, bumps .23, ridges .32; together 1, so that a block starts near the
# identity with room to contract (a positive definite Jacobian cannot go below its linear part).
_LINEAR_SLOPE, _BUMP_HEIGHT, _RIDGE_SLOPE = 0.45, 0.1, 0.32


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y)) if y < 30 else y


class StepNetwork(nnx.Module):
    """A step x' = x + d·v(x, t, d), as a composition of `num_blocks` injective blocks.

    Every parameter but the ridge directions is an affine function of smooth features of (t, d) that vanish at
    t = d = 1: the one-step map has its own full set of parameters, and other budgets modulate it.

    Args:
        dim: dimension D of the state.
        num_blocks: blocks in one step.
        width: number of ridge directions h of a block.
        rng_key: random key of the initial values; nothing random is kept.
        identity: start at the exact identity (to working precision), the untrained sampler, instead of near it.
    """

    def __init__(self, dim: int, *, num_blocks: int, width: int, rng_key: Array, identity: bool = False):
        rngs = nnx.Rngs(rng_key)
        per_dim, per_bump = (num_blocks, dim), (num_blocks, dim, _NUM_BUMPS)
        tiny = _inverse_softplus(1e-12)
        ridge = tiny if identity else _inverse_softplus(_RIDGE_SLOPE * dim / (0.5 * width))
        bump = tiny if identity else _inverse_softplus(_BUMP_HEIGHT)
        self.directions = nnx.Param(rngs.normal((num_blocks, width, dim)) / math.sqrt(dim))
        centers = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, _NUM_BUMPS), per_bump)
        groups = {
            "log_scale": jnp.full(per_dim, 0.0 if identity else math.log(_LINEAR_SLOPE)),
            "shift": jnp.zeros(per_dim),
            "offsets": rngs.normal((num_blocks, width)),
            "ridge": jnp.full((num_blocks, width), ridge),
            "bump": jnp.full(per_bump, bump),
            "log_sharpness": jnp.zeros(per_bump),
            "centers": centers + 0.1 * rngs.normal(per_bump),
        }
        for name, value in groups.items():
            setattr(self, name, nnx.Param(value))
            setattr(self, f"{name}_condition", nnx.Param(jnp.zeros((_NUM_CONDITION_FEATURES, *value.shape))))
        self.features = nnx.Param(rngs.normal((_NUM_CONDITION_FEATURES, 3)))

    def _features(self, t: Array, d: Array) -> Array:
        def smooth(t: Array, d: Array) -> Array:
            return jnp.tanh(self.features[...] @ jnp.stack([t, d, 0.5 * jnp.log2(d)]))

        one = jnp.ones_like(t)
        return smooth(t, d) - smooth(one, one)

    def step(self, t: Array, d: Array) -> BlockParams:
        """The blocks of the step of length `d` that starts at time `t`; leaves have a leading axis of blocks."""
        features = self._features(t, d)

        def at(name: str) -> Array:
            weights = getattr(self, f"{name}_condition")[...]
            return getattr(self, name)[...] + jnp.tensordot(features, weights, axes=1)

        return BlockParams(
            scale=jnp.exp(d * at("log_scale")),
            shift=d * at("shift"),
            directions=self.directions[...],
            offsets=at("offsets"),
            ridge=d * softplus(at("ridge")),
            bump=d * softplus(at("bump")),
            sharpness=jnp.exp(at("log_sharpness")),
            centers=at("centers"),
        )

    def arrays(self) -> dict[str, Array]:
        """All parameters by name."""
        return {name: param[...] for name, param in vars(self).items() if isinstance(param, nnx.Param)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "StepNetwork":
        """The network whose `arrays` these are."""
        num_blocks, width, dim = arrays["directions"].shape
        network = cls(dim, num_blocks=num_blocks, width=width, rng_key=jax.random.key(0))
        for name, value in arrays.items():
            setattr(network, name, nnx.Param(jnp.asarray(value)))
        return network
