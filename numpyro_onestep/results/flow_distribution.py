"""A trained flow as a NumPyro distribution and transform: yesterday's posterior as today's prior."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform
from numpyro.infer import MCMC

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.compilation import full_precision
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.run import run_of
from numpyro_onestep.state import trained_flows

__all__ = ["BaseDistribution", "FlowDistribution", "FlowTransform"]


class BaseDistribution(dist.Distribution):
    """The base p0 of a flow as a NumPyro distribution of shape (D,)."""

    support = constraints.real_vector  # type: ignore[assignment]
    pytree_data_fields = ("base",)

    def __init__(self, base: Base):
        self.base = base
        super().__init__(batch_shape=(), event_shape=(base.dim,), validate_args=False)

    @full_precision
    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Exact draws, shape (*sample_shape, D)."""
        num_draws = 1
        for size in sample_shape:
            num_draws *= size
        return base_.sample(self.base, key, num_draws).reshape(*sample_shape, self.base.dim)

    @full_precision
    def log_prob(self, value: Array) -> Array:
        """Log p0, constants included, shape of `value` without its last axis."""
        return jnp.vectorize(partial(base_.log_prob, self.base), signature="(d)->()")(value)


class FlowTransform(Transform):
    """The trained map from the base to the model's unconstrained space, flat, shape (D,), with exact inverse.

    The inverse can be differentiated, to any order and in both modes, by the implicit function theorem. It is nan where
    Newton's method does not return to 1e-3, far outside of the mass.

    Args:
        mcmc: a `OneStepSampler`, or an `MCMC` around a `OneStep` kernel, after `run`. Of several flows (replicates,
            chains that trained their own) the one with the highest held-out DF-ELBO is taken.

    Raises:
        TypeError: if the kernel is not `OneStep`.
        ValueError: if nothing was trained.
    """

    domain = constraints.real_vector  # type: ignore[assignment]
    codomain = constraints.real_vector  # type: ignore[assignment]

    def __init__(self, mcmc: MCMC):
        run = run_of(mcmc, "FlowTransform")
        flows = trained_flows(mcmc.last_state)
        best = max(flows, key=lambda state: float(state.train.best_elbo))  # type: ignore[union-attr]
        self.base: Base = best.base  # type: ignore[assignment]
        self.blocks = steps.compiled_blocks_of(best.train.best, run.kernel.num_steps)  # type: ignore[union-attr]
        self.out = run.setup.out_of_coordinates(run.args, run.kwargs)
        self.into = run.setup.into_coordinates(run.args, run.kwargs)

    @full_precision
    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        """Unconstrained points of base points, shape (..., D)."""
        return _over_points(partial(_forward, self.blocks, self.base, self.out), "(d)->(d)", x)

    @full_precision
    def _inverse(self, y: Array) -> Array:  # type: ignore[override]
        return _over_points(partial(_inverse, self.blocks, self.base, self.into), "(d)->(d)", y)

    @full_precision
    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:  # type: ignore[override]
        """log|det ∂y/∂x|, exact, shape of `x` without its last axis."""
        return _over_points(partial(_log_det, self.blocks, self.base, self.out), "(d)->()", x)

    def tree_flatten(self) -> tuple[tuple, tuple[tuple[str, ...], dict[str, Any]]]:
        """Everything learnt is a leaf."""
        return (self.blocks, self.base, self.out, self.into), (("blocks", "base", "out", "into"), {})


class FlowDistribution(dist.TransformedDistribution):
    """The flow's law as a NumPyro distribution on the flat unconstrained space, shape (D,).

    It is the posterior as far as the flow fits it (`Evidence.ess` says how far). As a prior in another model, with the
    same parameters there by `constrain`, it makes yesterday's posterior today's prior.

    Args:
        mcmc: as for `FlowTransform`, with the same errors.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from numpyro_onestep import FlowDistribution, OneStep, OneStepSampler
        >>> def yesterday():
        ...     numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        >>> sampler = OneStepSampler(OneStep(yesterday), num_warmup=100, num_samples=50, progress_bar=False)
        >>> sampler.run(jax.random.key(0))
        >>> posterior = FlowDistribution(sampler)
        >>> def today(count):
        ...     rate = posterior.constrain(numpyro.sample("flat", posterior))["rate"]
        ...     numpyro.sample("count", dist.Poisson(rate), obs=count)
        >>> posterior.log_prob(posterior.sample(jax.random.key(1), (4,))).shape
        (4,)
    """

    pytree_data_fields = ("_constrain",)

    def __init__(self, mcmc: MCMC):
        transform = FlowTransform(mcmc)
        self._constrain = run_of(mcmc, "FlowDistribution").constrain_point()
        super().__init__(BaseDistribution(transform.base), transform, validate_args=False)

    @full_precision
    def constrain(self, value: Array) -> Any:
        """Constrained values and deterministic sites of the trained model, by name, at `value`, shape (..., D)."""
        flat = jnp.reshape(value, (-1, value.shape[-1]))
        with numpyro.handlers.block():  # the trained model's sites are not those of a model around it
            constrained = jax.vmap(self._constrain)(flat)
        return jax.tree.map(lambda leaf: leaf.reshape(*value.shape[:-1], *leaf.shape[1:]), constrained)


def _over_points(function: Any, signature: str, points: Array) -> Array:
    return jnp.vectorize(function, signature=signature)(points)


def _forward(blocks: BlockParams, base: Base, out: ModelFunction | None, x: Array) -> Array:
    v = base_.unwhiten(base, steps.forward(blocks, x))
    return v if out is None else out(v)[0]


def _log_det(blocks: BlockParams, base: Base, out: ModelFunction | None, x: Array) -> Array:
    u, log_det = steps.forward_and_log_det(blocks, x)
    log_det += base_.whitening_log_det(base, u)
    return log_det if out is None else log_det + out(base_.unwhiten(base, u))[1]


def _inverse(blocks: BlockParams, base: Base, into: ModelFunction | None, z: Array) -> Array:
    u = base_.whiten_point(base, z if into is None else into(z))
    start = lax.stop_gradient(steps.inverse(lax.stop_gradient(blocks), lax.stop_gradient(u)))
    # the root is known: only its derivatives are asked for
    x: Array = lax.custom_root(
        lambda x: steps.forward(blocks, x) - u,
        start,
        lambda _, start: start,
        lambda tangent, v: jnp.linalg.solve(jax.jacobian(tangent)(v), v),
    )
    returned = jnp.max(jnp.abs(steps.forward(blocks, x) - u)) < 1e-3 * (1 + jnp.max(jnp.abs(u)))
    return jnp.where(returned, x, jnp.nan)
