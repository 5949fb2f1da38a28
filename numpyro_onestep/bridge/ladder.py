"""More evaluations a draw: the flow, then Hamiltonian steps from p0 to the target on the base's coordinates.

Each step is a leapfrog of `hamiltonian`, with λ in the middle of its share of the way from 0 to 1; between two of them
the momentum is partly drawn anew. All steps are invertible and keep volume, in the space of points and momenta, so the
weight needs no backward kernel: with the sum over steps,

    log w = log π̃(x_n) − log p0(x_0) + Σ [log N(p after) − log N(p before)],

the deterministic-flow weight (arXiv 2512.05251) of n evaluations (cf. Hamiltonian importance sampling, Neal 2005). Its
mean is Z whatever the force, the angle and the temperatures; they decide how much it varies.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.bridge import hamiltonian
from numpyro_onestep.bridge.hamiltonian import Path, Point
from numpyro_onestep.compilation import jit
from numpyro_onestep.devices import shard
from numpyro_onestep.flow import scores, steps
from numpyro_onestep.flow.density import Flow, PulledBack

__all__ = ["EXACT_DIM", "Ends", "ascend", "compiled_angle_of", "find_angle", "path_of", "scale_of"]

EXACT_DIM = 32  # up to it the exact force takes a third more time at most, at 61 twice as much
_ANGLES = (0.1, 0.2, 0.4, 0.7)  # to choose from
_REFRESHMENT = 0.25  # the momentum keeps e^−(θ/4) of itself from step to step
_NUM_NEAR = 64
_NUM_PILOT = 256  # draws by which the angle is chosen


class Ends(NamedTuple):
    """Where draws end on the base's coordinates, shape (N, D), with log π̃ there and their log weights, each (N,)."""

    x: Array
    log_target: Array
    log_weights: Array


def path_of(trained: Flow, num_steps: int, exact_up_to: float = EXACT_DIM) -> Path:
    """The way from p0 to the target pulled back through the flow's map of `num_steps` steps.

    Its force is the exact gradient in up to so many dimensions. Above, it is the gradient as seen from 64 draws of p0,
    which may stand for it, since any force leaves the weights exact.
    """
    base = trained.problem.base
    blocks = steps.blocks_of(trained.network, num_steps)
    near = None
    if base.dim > exact_up_to:
        key_draw, key_signs = random.split(random.key(0))
        near = scores.reference(blocks, key_signs, base_.sample(base, key_draw, _NUM_NEAR))
    return Path(PulledBack(blocks, trained.problem, near), base, scale_of(base))


def scale_of(base: Base) -> Array | None:
    """The Cholesky factor of the mean covariance of p0's components; None where there is but one."""
    mixture = base.mixture
    if len(mixture.log_weights) == 1:  # of which it is the identity
        return None
    covariances = jnp.einsum("kij,klj->kil", mixture.scale_trils, mixture.scale_trils)
    scale = jnp.linalg.cholesky(jnp.einsum("k,kij->ij", jnp.exp(mixture.log_weights), covariances))
    return jax.scipy.linalg.block_diag(scale, jnp.eye(len(base.beside), dtype=base.dtype))


def ascend(path: Path, rng_key: Array, num_draws: int, num_steps: int, angle: Array) -> Ends:
    """Draws of `num_steps` evaluations each, by leapfrogs of `angle`; with angle 0 they are those of the flow alone."""
    key_start, key_momentum = random.split(rng_key)
    start = shard(base_.sample(path.base, key_start, num_draws))
    at = jax.vmap(partial(hamiltonian.look, path))(start)
    kept = jnp.exp(-_REFRESHMENT * angle)
    leapfrog = jax.vmap(lambda at, p, annealing: hamiltonian.leapfrog(path, at, p, annealing, angle), (0, 0, None))

    def step(i: Array, carry: tuple[Point, Array, Array]) -> tuple[Point, Array, Array]:
        at, momentum, log_w = carry
        fresh = random.normal(random.fold_in(key_momentum, i), momentum.shape, momentum.dtype)
        before = jnp.where(i == 0, fresh, kept * momentum + jnp.sqrt(1 - kept**2) * fresh)
        at, momentum = leapfrog(at, before, (i + 0.5) / (num_steps - 1))
        return at, momentum, log_w + 0.5 * jnp.sum(before**2, axis=1) - 0.5 * jnp.sum(momentum**2, axis=1)

    carry = at, jnp.zeros_like(start), -at.log_base
    at, _, log_w = lax.fori_loop(0, num_steps - 1, step, carry)
    return Ends(at.x, at.log_target, log_w + at.log_target)


def find_angle(path: Path, num_steps: int) -> Array:
    """The angle with the highest mean log weight of 256 draws, the same for all; 0 where none is above the flow's."""
    key = random.key(0)
    angles = jnp.array([0.0, *_ANGLES], path.base.dtype)

    def score(angle: Array) -> Array:
        # no weight counts for less than e^-10 of the mean: a few draws that end nowhere waste themselves, no more
        log_w = ascend(path, key, _NUM_PILOT, num_steps, angle).log_weights
        log_w = jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
        top = jax.nn.logsumexp(log_w) - np.log(_NUM_PILOT)
        return jnp.mean(jnp.maximum(log_w, top - 10))

    return angles[jnp.argmax(lax.map(score, angles))]


@partial(jit, static_argnames=("num_steps",))
def compiled_angle_of(trained: Flow, num_steps: int) -> Array:
    """The angle of `num_steps` evaluations of a flow."""
    return find_angle(path_of(trained, 1), num_steps)
