"""The base distribution p0: a whitening Gaussian or a mixture, with Student-t tails where needed, sampled exactly.

Shares of the draws may come from the same components Student-t with 2 degrees of freedom, in every direction, or each
coordinate for itself. Since the flow is linear far out, the weights of a target whose own tails are polynomial then
stay bounded where those of a Gaussian base do not (Hesterberg 1995, defensive mixtures).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, logsumexp

from numpyro_onestep.base import conditional_scale
from numpyro_onestep.base.conditional_scale import Whitening
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.gaussians import factors
from numpyro_onestep.gaussians import mixture as mixture_
from numpyro_onestep.gaussians.factors import Affine
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import LARGE_DIM

__all__ = [
    "Base",
    "as_mixture",
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


# scale of a Student-t coordinate, such that the Gaussian nearest to it by the ELBO has scale one: for standard normal a
# the mean of 2 / (2 + (a / scale)²) is two thirds
_NARROW = 0.7326


class Base(NamedTuple):
    """p0 in whitened coordinates u, and the map z = rotation·whitening(u) to the unconstrained space.

    Attributes:
        mixture: p0 on the first C coordinates of u but for its tails; with one component it is exactly the standard
            normal.
        whitening: of the first C coordinates: with conditional scales, or affine and without a matrix.
        annealed: whether p0 only spans the target's modes, so that training must anneal from p0 to the target.
        rotation: orthogonal, shape (C, C); its columns are the axes along which the target factorises best. None where
            that would be too large a matrix.
        heavy_shares: of p0, what is Student-t: in all directions alike, and each coordinate on its own; shape (2,).
        beside: zeros, one for each of the D − C further coordinates, which are standard normal, independent of the
            others, and left as they are.
    """

    mixture: Mixture
    whitening: Whitening | Affine
    annealed: Array
    rotation: Array | None
    heavy_shares: Array
    beside: Array

    @property
    def num_own(self) -> int:
        """C, the coordinates that are whitened."""
        return self.whitening.shift.shape[0]

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.num_own + self.beside.shape[0]

    @property
    def dtype(self) -> Any:
        """Of draws."""
        return self.whitening.shift.dtype


def sample(base: Base, rng_key: Array, num_draws: int, inflate: float | Array = 1.0) -> Array:
    """Exact draws of u, shape (num_draws, D).

    `inflate` stretches the components about their means: a number, or one for each draw, shape (num_draws, 1).
    """
    dtype = base.dtype
    key_heavy, key_stretch = random.split(random.fold_in(rng_key, 1))
    which = random.uniform(key_heavy, (num_draws, 1), dtype)
    joint = which < base.heavy_shares[0]
    apart = ~joint & (which < jnp.sum(base.heavy_shares))

    def stretch(key: Array, num: int) -> Array:
        """A normal over the root of a mean-one exponential is Student-t with 2 degrees of freedom."""
        return jnp.maximum(random.exponential(key, (num_draws, num), dtype), 1e-8) ** -0.5

    inflate = inflate * jnp.where(joint, stretch(key_stretch, 1), 1.0)
    each = jnp.where(apart, _NARROW * stretch(random.fold_in(key_stretch, 1), base.num_own), 1.0)
    if base.mixture.means.shape[0] == 1:
        each = jnp.pad(each, ((0, 0), (0, len(base.beside))), constant_values=1.0)
        return inflate * each * random.normal(rng_key, (num_draws, base.dim), dtype)
    own = mixture_.sample(base.mixture, rng_key, num_draws, inflate * each)
    if base.dim == base.num_own:
        return own
    others = random.normal(random.fold_in(rng_key, 3), (num_draws, len(base.beside)), dtype)
    return jnp.concatenate([own, inflate * others], axis=1)


def log_prob(base: Base, u: Array, inflate: float = 1.0) -> Array:
    """Log p0(u) of one point, every constant included; with `inflate` that of the stretched draws of `sample`."""
    shares = jnp.concatenate([1 - jnp.sum(base.heavy_shares, keepdims=True), base.heavy_shares])
    return logsumexp(parts(base, u, inflate), b=shares)


def parts(base: Base, u: Array, inflate: float = 1.0) -> Array:
    """Log densities of p0's three parts at one point: Gaussian, and Student-t in every direction and coordinate."""
    alone, (own, others) = base.mixture.means.shape[0] == 1, _apart(base, u)
    white, log_scale = (own[None], jnp.zeros(1, u.dtype)) if alone else mixture_.standardize(base.mixture, own)
    half = 0.5 * (jnp.sum((white / inflate) ** 2, axis=1) + jnp.sum((others / inflate) ** 2))
    log_scale = log_scale - base.dim * (0.5 * jnp.log(2 * jnp.pi) + jnp.log(inflate))
    joint = gammaln(1 + base.dim / 2) - (1 + base.dim / 2) * jnp.log1p(half)
    each = 0.5 * jnp.log(jnp.pi / 4) - np.log(_NARROW) - 1.5 * jnp.log1p(0.5 * (white / (inflate * _NARROW)) ** 2)
    apart = jnp.sum(each, axis=1) - 0.5 * jnp.sum((others / inflate) ** 2)
    return logsumexp(log_scale + jnp.stack([-half, joint, apart]), axis=1)


def _apart(base: Base, u: Array) -> tuple[Array, Array]:
    """The coordinates that are whitened, and the others."""
    return u[: base.num_own], u[base.num_own :]


def score(base: Base, u: Array) -> Array:
    """∇log p0(u) of one point."""
    return jax.grad(lambda u: log_prob(base, u))(u)


def unwhiten(base: Base, u: Array) -> Array:
    """z(u) of one point."""
    f, (own, others) = base.whitening, _apart(base, u)
    z = f.shift + factors.times(f.factor, own) if isinstance(f, Affine) else conditional_scale.apply(f, own)
    return jnp.concatenate([z if base.rotation is None else base.rotation @ z, others])


def whiten_point(base: Base, z: Array) -> Array:
    """u(z) of one point, the inverse of `unwhiten`."""
    f, (own, others) = base.whitening, _apart(base, z)
    z = own if base.rotation is None else base.rotation.T @ own
    u = factors.solve(f.factor, z - f.shift) if isinstance(f, Affine) else conditional_scale.inverse(f, z)
    return jnp.concatenate([u, others])


def whitening_log_det(base: Base, u: Array) -> Array:
    """log|det ∂z/∂u| at one point."""
    f = base.whitening
    return factors.log_det(f.factor) if isinstance(f, Affine) else conditional_scale.log_det(f, _apart(base, u)[0])


def beside(base: Base, num: int) -> Base:
    """The base with `num` standard normal coordinates more, after its own and independent of them."""
    if num == 0:
        return base
    # Student-t directions stretch all coordinates alike: what a few need would be wasted on the others
    return base._replace(
        heavy_shares=base.heavy_shares * np.array([0, 1], base.dtype), beside=jnp.zeros(num, base.dtype)
    )


def as_mixture(base: Base) -> Mixture:
    """What an affine base holds, as Gaussians on the unconstrained space."""
    f, eye = base.whitening, jnp.eye(len(base.beside), dtype=base.dtype)
    if isinstance(f, Affine):
        whole = Mixture(base.mixture.log_weights, f.shift[None], jax.tree.map(lambda leaf: leaf[None], f.factor))
    else:
        means = (f.shift + base.mixture.means @ f.scale_tril.T) @ base.rotation.T  # type: ignore[union-attr]
        trils = mixture_.lower_factor(base.rotation @ f.scale_tril @ base.mixture.scale_trils)  # type: ignore[operator]
        whole = Mixture(base.mixture.log_weights, means, trils)
    if len(eye) == 0:
        return whole
    means = jnp.pad(whole.means, ((0, 0), (0, len(eye))))
    trils = jax.vmap(lambda own: jax.scipy.linalg.block_diag(own, eye))(whole.scale_trils)
    return whole._replace(means=means, scale_trils=trils)


def pad(base: Base, sizes: tuple[int, ...] = (9, 64)) -> Base:
    """The same with components without weight, up to one of a few sizes: NumPyro stacks the states of its chains."""
    num = len(base.mixture.log_weights)
    if base.rotation is None:  # always of one component
        return base
    extra = next((size for size in sizes if size >= num), num) - num
    more = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], extra, axis=0), base.mixture)
    more = more._replace(log_weights=jnp.full_like(more.log_weights, -1e30))
    return base._replace(mixture=jax.tree.map(lambda *leaves: jnp.concatenate(leaves), base.mixture, more))


@jit_once
def whiten(q: Mixture, annealed: bool | Array = False, rotation: Array | None = None) -> Base:
    """The base with the density `q` on rotationᵀz, in coordinates in which it has mean zero and unit covariance."""
    light, none = jnp.zeros(2, q.means.dtype), jnp.zeros(0, q.means.dtype)
    num, dim = q.means.shape
    if num == 1 and dim > LARGE_DIM:
        whitening = Affine(q.means[0], jax.tree.map(lambda leaf: leaf[0], q.scale_trils))
        return Base(mixture_.standard(dim, q.means.dtype), whitening, jnp.asarray(annealed), None, light, none)
    weights = jnp.exp(q.log_weights)
    shift = weights @ q.means
    centered = q.means - shift
    cov = jnp.einsum("k,kij,klj->il", weights, q.scale_trils, q.scale_trils)
    tril = q.scale_trils[0] if num == 1 else jnp.linalg.cholesky(cov + (centered.T * weights) @ centered)
    means = solve_triangular(tril, centered.T, lower=True).T
    trils = jax.vmap(lambda component: solve_triangular(tril, component, lower=True))(q.scale_trils)
    whitening = conditional_scale.affine(shift, tril)
    rotation = jnp.eye(len(shift), dtype=shift.dtype) if rotation is None else rotation
    mixture = Mixture(q.log_weights, means, trils)
    return Base(mixture, whitening, jnp.asarray(annealed), rotation, light, none)
