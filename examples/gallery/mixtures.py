"""A mixture of two normals whose components can be exchanged."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

__all__ = ["mixture", "two_groups"]


def two_groups(num_rows: int = 80) -> np.ndarray:
    """Two overlapping groups, of 30 and 70 per cent."""
    rng = np.random.default_rng(11)
    return np.where(rng.uniform(size=num_rows) < 0.3, -1.5, 1.5) + rng.normal(size=num_rows)


def mixture(y: np.ndarray) -> None:
    """Two normals of one scale, without any order between them: the posterior has two equal modes.

    NUTS sees one or the other; what does not depend on the labels, such as the lower of the two means, can be compared.
    """
    share: Any = numpyro.sample("share", dist.Dirichlet(jnp.full(2, 2.0)))
    center: Any = numpyro.sample("center", dist.Normal(0, 3).expand([2]).to_event(1))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(2))
    order = jnp.argsort(center)
    numpyro.deterministic("ordered_center", center[order])
    numpyro.deterministic("ordered_share", share[order])
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(center, scale)), obs=y)
