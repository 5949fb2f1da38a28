"""The base distribution p0: a whitening Gaussian or a mixture, with Student-t tails where needed, sampled exactly.

A share of the draws may come from the same components with every direction Student-t with 2 degrees of freedom. Since
the flow is linear far out, the weights of a target whose own tails are polynomial then stay bounded where those of a
Gaussian base do not (Hesterberg 1995, defensive mixtures).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, logsumexp

from numpyro_onestep.base import conditional_scale, mixture_vi
from numpyro_onestep.base.conditional_scale import Whitening
from numpyro_onestep.base.mixture_vi import Mixture
from numpyro_onestep.compilation import jit_once

__all__ = [
    "Base",
    "beside",
    "log_prob",
    "pad",
    "parts",
    "sample",
    "score",
    "unwhiten",
    "whiten",
    "whiten_point",
    "whitening_log_det",
]


class Base(NamedTuple):
    """p0 in whitened coordinates u, and the map z = rotation·whitening(u) to the unconstrained space.

    Attributes:
        mixture: p0 on u but for its tails; with one component it is exactly the standard normal.
        whitening: affine or with conditional scales.
        annealed: whether p0 only spans the target's modes, so that training must anneal from p0 to the target.
        rotation: orthogonal, shape (D, D); its columns are the axes along which the target factorises best.
        heavy_share: of p0, what is Student-t.
    """

    mixture: Mixture
    whitening: Whitening
    annealed: Array
    rotation: Array
    heavy_share: Array

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.whitening.shift.shape[0]


def sample(base: Base, rng_key: Array, num_draws: int, inflate: float | Array = 1.0) -> Array:
    """Exact draws of u, shape (num_draws, D).

    `inflate` stretches the components about their means: a number, or one for each draw, shape (num_draws, 1).
    """
    dtype = base.whitening.shift.dtype
    key_heavy, key_stretch = random.split(random.fold_in(rng_key, 1))
    heavy = random.uniform(key_heavy, (num_draws, 1), dtype) < base.heavy_share
    # a normal over the root of a mean-one exponential is Student-t with 2 degrees of freedom
    stretch = jnp.maximum(random.exponential(key_stretch, (num_draws, 1), dtype), 1e-8) ** -0.5
    inflate = inflate * jnp.where(heavy, stretch, 1.0)
    if base.mixture.means.shape[0] == 1:
        return inflate * random.normal(rng_key, (num_draws, base.dim), dtype)
    return mixture_vi.sample(base.mixture, rng_key, num_draws, inflate)


def log_prob(base: Base, u: Array, inflate: float = 1.0) -> Array:
    """Log p0(u) of one point, every constant included; with `inflate` that of the stretched draws of `sample`."""
    light, heavy = parts(base, u, inflate)
    share = base.heavy_share
    return jnp.logaddexp(jnp.log1p(-share) + light, jnp.log(share) + heavy)


def parts(base: Base, u: Array, inflate: float = 1.0) -> tuple[Array, Array]:
    """Log densities of p0's two parts at one point: Gaussian components, and the same with Student-t directions."""
    alone = base.mixture.means.shape[0] == 1
    white, log_scale = (u[None], jnp.zeros(1, u.dtype)) if alone else mixture_vi.standardize(base.mixture, u)
    half = 0.5 * jnp.sum((white / inflate) ** 2, axis=1)
    log_scale = log_scale - base.dim * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(inflate))
    heavy = gammaln(1 + base.dim / 2) - (1 + base.dim / 2) * jnp.log1p(half)
    return logsumexp(log_scale - half), logsumexp(log_scale + heavy)


def score(base: Base, u: Array) -> Array:
    """∇log p0(u) of one point."""
    return jax.grad(lambda u: log_prob(base, u))(u)


def unwhiten(base: Base, u: Array) -> Array:
    """z(u) of one point."""
    return base.rotation @ conditional_scale.apply(base.whitening, u)


def whiten_point(base: Base, z: Array) -> Array:
    """u(z) of one point, the inverse of `unwhiten`."""
    return conditional_scale.inverse(base.whitening, base.rotation.T @ z)


def whitening_log_det(base: Base, u: Array) -> Array:
    """log|det ∂z/∂u| at one point."""
    return conditional_scale.log_det(base.whitening, u)


def beside(base: Base, num: int) -> Base:
    """The base with `num` standard normal coordinates more, after its own and independent of them."""
    return base if num == 0 else _beside(base, num)


@partial(jit_once, static_argnames=("num",))
def _beside(base: Base, num: int) -> Base:
    eye, none = jnp.eye(num, dtype=base.rotation.dtype), jnp.zeros(num, base.rotation.dtype)

    def vector(own: Array) -> Array:
        return jnp.concatenate([own, jnp.broadcast_to(none, (*own.shape[:-1], num))], axis=-1)

    def matrix(own: Array, new: Array) -> Array:
        return jax.scipy.linalg.block_diag(own, new)

    f, mixture = base.whitening, base.mixture
    slopes, bends, mixing = (matrix(own, 0 * eye) for own in (f.scale_slopes, f.scale_bends, f.mixing))
    trils = jax.vmap(lambda own: matrix(own, eye))(mixture.scale_trils)
    shift, tril = vector(f.shift), matrix(f.scale_tril, eye)
    whitening = Whitening(shift, tril, slopes, bends, mixing, vector(f.offset), vector(f.tails))
    mixture = Mixture(mixture.log_weights, vector(mixture.means), trils)
    # Student-t directions stretch all coordinates alike: what a few need would be wasted on the others
    return Base(mixture, whitening, base.annealed, matrix(base.rotation, eye), jnp.zeros_like(base.heavy_share))


def pad(base: Base, sizes: tuple[int, ...] = (9, 64)) -> Base:
    """The same with components without weight, up to one of a few sizes: NumPyro stacks the states of its chains."""
    num = len(base.mixture.log_weights)
    extra = next((size for size in sizes if size >= num), num) - num
    more = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], extra, axis=0), base.mixture)
    more = more._replace(log_weights=jnp.full_like(more.log_weights, -1e30))
    return base._replace(mixture=jax.tree.map(lambda *leaves: jnp.concatenate(leaves), base.mixture, more))


@jit_once
def whiten(q: Mixture, annealed: bool | Array = False, rotation: Array | None = None) -> Base:
    """The base with the density `q` on rotationᵀz, in coordinates in which it has mean zero and unit covariance."""
    weights = jnp.exp(q.log_weights)
    shift = weights @ q.means
    centered = q.means - shift
    cov = jnp.einsum("k,kij,klj->il", weights, q.scale_trils, q.scale_trils)
    tril = q.scale_trils[0] if len(weights) == 1 else jnp.linalg.cholesky(cov + (centered.T * weights) @ centered)
    means = solve_triangular(tril, centered.T, lower=True).T
    trils = jax.vmap(lambda component: solve_triangular(tril, component, lower=True))(q.scale_trils)
    whitening = conditional_scale.affine(shift, tril)
    rotation = jnp.eye(len(shift), dtype=shift.dtype) if rotation is None else rotation
    mixture = Mixture(q.log_weights, means, trils)
    return Base(mixture, whitening, jnp.asarray(annealed), rotation, heavy_share=jnp.zeros((), shift.dtype))
