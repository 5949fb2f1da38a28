"""log|det| of the Jacobian of a free-form step: exact, or an unbiased estimate for many dimensions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.scipy.sparse.linalg import bicgstab

__all__ = ["estimate", "exact"]

Step = Callable[[Array], Array]


def exact(step: Step, x: Array) -> Array:
    """log|det ∂step/∂x| at one point from all D columns of the Jacobian: D products and O(D³)."""
    return jnp.linalg.slogdet(jax.jacfwd(step)(x))[1]


def estimate(step: Step, x: Array, rng_key: Array, num_probes: int) -> Array:
    """An unbiased estimate of log|det ∂step/∂x| at one point, by Jacobian products alone.

    With the Jacobian I + M, log det(I + M) = ∫₀¹ tr((I + sM)⁻¹M) ds. Each probe ε of random signs has its own s, one in
    each of `num_probes` equal parts of [0, 1], and adds εᵀ(I + sM)⁻¹Mε, solved by BiCGSTAB; where M is diagonal only s
    adds variance. The Jacobian must stay invertible all the way I + sM from the identity, as it does where its
    symmetric part is positive definite. The square of an estimate's error is biased by its variance; the product of the
    errors of two independent estimates is not.

    Args:
        step: the map of one point.
        x: the point, shape (D,).
        rng_key: random key.
        num_probes: probes; the variance falls at least in proportion.
    """
    key_node, key_probe = random.split(rng_key)
    nodes = (jnp.arange(num_probes) + random.uniform(key_node, (num_probes,), x.dtype)) / num_probes

    tolerance = 100 * float(jnp.finfo(x.dtype).eps)

    def change(v: Array) -> Array:
        return jax.jvp(step, (x,), (v,))[1] - v

    def term(s: Array, probe: Array) -> Array:
        return probe @ bicgstab(lambda v: v + s * change(v), change(probe), tol=tolerance)[0]

    return jnp.mean(jax.vmap(term)(nodes, random.rademacher(key_probe, (num_probes, len(x)), x.dtype)))
