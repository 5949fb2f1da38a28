"""The paper's network: the control of a reverse diffusion, conditioned on time and step length."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

__all__ = ["ControlNetwork"]

_NUM_FREQUENCIES = 4  # of time


class ControlNetwork(nnx.Module):
    """The paper's control u(x, t, d) = NN(x, t, d) + NN(t, d) ⊙ clip(score); zero at initialisation.

    Args:
        dim: dimension D of the state.
        width: units of the two hidden layers.
        rng_key: random key of the initial values; nothing random is kept.
        clip: bound of the score's components.
    """

    def __init__(self, dim: int, *, width: int, rng_key: Array, clip: float = 100.0):
        rngs = nnx.Rngs(rng_key)
        zeros = nnx.initializers.zeros
        self.inner = nnx.Linear(dim + 2 * _NUM_FREQUENCIES + 1, width, rngs=rngs)
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.outer = nnx.Linear(width, dim, rngs=rngs, kernel_init=zeros)
        self.gate_inner = nnx.Linear(2 * _NUM_FREQUENCIES + 1, width, rngs=rngs)
        self.gate_outer = nnx.Linear(width, dim, rngs=rngs, kernel_init=zeros)
        self.clip = clip

    def __call__(self, x: Array, t: Array, d: Array, score: Array) -> Array:
        """The control u of one point, shape (D,), from the `score` of the annealed density there."""
        angles = 2 * jnp.pi * t * 0.5 ** jnp.arange(_NUM_FREQUENCIES)
        when = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), jnp.log2(d)[None]])
        hidden = nnx.gelu(self.hidden(nnx.gelu(self.inner(jnp.concatenate([x, when])))))
        gate = self.gate_outer(nnx.gelu(self.gate_inner(when)))
        return self.outer(hidden) + gate * jnp.clip(score, -self.clip, self.clip)
