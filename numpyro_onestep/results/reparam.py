"""A trained flow as a reparametrisation: NUTS, or any other sampler, in the flow's space (neural transport)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.distributions import biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.infer import MCMC
from numpyro.infer.reparam import Reparam

from numpyro_onestep.results.flow_distribution import BaseDistribution, FlowTransform
from numpyro_onestep.run import run_of

__all__ = ["FlowReparam"]


class FlowReparam:
    """All latent sites of a model as images of one site "onestep_latent" under the trained flow (Hoffman et al. 2019).

    As NumPyro's `NeuTraReparam` does with a guide. In the flow's space the posterior is nearly the base, so NUTS moves
    fast where the model's own space has funnels and ridges: for posteriors where one step alone is not enough, since
    what the flow misses costs only speed. A mode that lies outside of the flow's reach stays there.

    Args:
        mcmc: a `OneStepSampler`, or an `MCMC` around a `OneStep(model)` kernel, after `run`.

    Raises:
        TypeError: if the kernel is not `OneStep`, or was made from a potential function.
        ValueError: if nothing was trained.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC, NUTS
        >>> from numpyro_onestep import FlowReparam, OneStep, OneStepSampler
        >>> def model():
        ...     numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        >>> sampler = OneStepSampler(OneStep(model), num_warmup=100, num_samples=50, progress_bar=False)
        >>> sampler.run(jax.random.key(0))
        >>> reparam = FlowReparam(sampler)
        >>> mcmc = MCMC(NUTS(reparam.reparam(model)), num_warmup=100, num_samples=50, progress_bar=False)
        >>> mcmc.run(jax.random.key(1))
        >>> mcmc.get_samples()["rate"].shape
        (50,)
    """

    def __init__(self, mcmc: MCMC):
        run = run_of(mcmc, "FlowReparam")
        self.transform = FlowTransform(mcmc)
        if run.kernel.model is None:
            raise TypeError("FlowReparam needs a kernel made from a model: a potential function has no sites.")
        self._unravel, self._constrain = run.setup.unravel, run.constrain_point()
        self._names = set(self._unravel(jnp.zeros(self.transform.base.dim)))

    def reparam(self, fn: Callable) -> Callable:
        """The model with its latent sites made deterministic functions of the one new site.

        Raises (from the new model):
            ValueError: if a latent site of the trained model is not reached, as within `scan`.
        """

        def transported(*args: Any, **kwargs: Any) -> Any:
            # before the model, out of reach of the handlers within it
            latent: Any = numpyro.sample("onestep_latent", _PulledBack(self.transform))  # type: ignore[arg-type]
            values, used = self._unravel(self.transform(latent)), set()

            def config(site: dict[str, Any]) -> Reparam | None:
                if site["name"] not in self._names or site["is_observed"]:
                    return None
                used.add(site["name"])
                return _FromFlow(values[site["name"]])

            result = numpyro.handlers.reparam(fn, config=config)(*args, **kwargs)
            if used != self._names:
                missing = ", ".join(sorted(self._names - used))
                raise ValueError(
                    f"FlowReparam does not reach the sites {missing}: they are within `scan` or another control flow, "
                    "or the flow was trained on another model."
                )
            return result

        return transported

    def transform_sample(self, latent: Array) -> Any:
        """Constrained sites by name of values of "onestep_latent", shape (..., D)."""
        with numpyro.handlers.block():
            sites = jax.vmap(self._constrain)(self.transform(latent).reshape(-1, latent.shape[-1]))
        return jax.tree.map(lambda leaf: leaf.reshape(*latent.shape[:-1], *leaf.shape[1:]), sites)


class _FromFlow(Reparam):
    """One site's value, given on the unconstrained space, with its prior as a factor."""

    def __init__(self, free: Array):
        self._free = free

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Any]:
        to_support = biject_to(fn.support)
        value: Any = to_support(self._free)
        if numpyro.get_mask() is not False:
            jacobian = to_support.log_abs_det_jacobian(self._free, value)
            jacobian = sum_rightmost(jacobian, jnp.ndim(jacobian) - jnp.ndim(value) + len(fn.event_shape))
            numpyro.factor(f"_{name}_prior", fn.log_prob(value) + jacobian)
        return None, value


class _PulledBack(BaseDistribution):
    """Drawn from the base, but with the density that turns one on the model's space into one on the base's."""

    pytree_data_fields = ("transform",)

    def __init__(self, transform: FlowTransform):
        self.transform = transform
        super().__init__(transform.base)

    def log_prob(self, value: Array) -> Array:
        return self.transform.log_abs_det_jacobian(value, value)
