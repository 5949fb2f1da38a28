"""What is known of a model or potential function after one look: its density, its sites, and what it says of log Z."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jax.scipy.stats import norm

from numpyro_onestep.compilation import full_precision, in_transformation, jit_once
from numpyro_onestep.members import laplace
from numpyro_onestep.members.find import find
from numpyro_onestep.members.laplace import Members
from numpyro_onestep.model.function import ALL, NONE, REAL, ModelFunction, bind, plain, trace
from numpyro_onestep.model.target import COSTLY_DIM, DENSE_DIM, HEAVY_WORK, Target
from numpyro_onestep.traces.fingerprint import Same, fingerprint
from numpyro_onestep.traces.sums import exact_sums, has_long_sums
from numpyro_onestep.traces.work import work

__all__ = ["ModelSetup"]

_MEDIUM_DIM = 128  # up to which members in which log γ is not quadratic take more compilation than they gain


class ModelSetup(NamedTuple):
    """What the kernel needs to know of a model or potential function, from one look at it.

    Attributes:
        potential_fn_gen: (*args, **kwargs) → potential energy on unconstrained values.
        postprocess_gen: (*args, **kwargs) → map from unconstrained values to constrained and deterministic sites;
            None for a potential function.
        unravel: flat vector (D,) → unconstrained values.
        center: a valid point, flat, shape (D,).
        caveats: why the evidence is undefined or not what its name says, in words; empty where it is sound.
        notes: what a reader of the evidence should know that no check can tell.
        observed: all observed values, site after site; None where they are not known.
        observations: the same by site, masked ones included.
        identity: tells models whose functions do the same, given the same arguments, from others.
        abstract: kinds of arrays among the arguments whose values the model need not see; see `function.bind`.
        reverse_only: whether it has functions with rules for reverse-mode differentiation alone.
        given: the positional and keyword arguments of the look; None where they were those of a transformation.
        work: about how many numbers one evaluation of the density computes.
        forward_mode: whether to differentiate by forward mode, for models with `while_loop`.
        idle: coordinates that the density does not depend on, shape (D,): masked entries of latent sites that touch
            nothing, as `obs_mask` makes them. They get a standard normal density of their own, which changes neither
            the other coordinates' posterior nor the evidence.
        prior_gen: (args, kwargs, random key) → a draw of the prior on the model's flat vector; None for a potential.
        members: coordinates that are whitened given the rest: the sampler's flat vector is then not the model's.
        long_sums: whether the density adds up so many terms of single precision that they are added up exactly.
    """

    potential_fn_gen: Callable[..., Callable[[Any], Array]]
    postprocess_gen: Callable[..., Callable[[Any], Any]] | None
    unravel: Callable[[Array], Any]
    center: Array
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    observed: np.ndarray | None
    identity: Hashable
    abstract: str
    reverse_only: bool = False
    given: tuple[tuple, dict[str, Any]] | None = None
    work: int = 0
    forward_mode: bool = False
    idle: np.ndarray | None = None
    observations: dict[str, Any] | None = None
    prior_gen: Callable[..., Array] | None = None
    members: Members | None = None
    long_sums: bool = False

    def target(self, args: tuple, kwargs: dict[str, Any]) -> Target:
        """Log γ and its derivatives on the flat unconstrained vector, guarded against values that are not finite."""
        density = self.log_density(args, kwargs)
        return Target(density, self.forward_mode, self.reverse_only, self.work, hessians=self.members is None)

    def marginal(self, args: tuple, kwargs: dict[str, Any]) -> Target:
        """Log γ with the members integrated out, by Laplace's approximation; the target itself where there are none."""
        if self.members is None:
            return self.target(args, kwargs)
        density = self._in_coordinates("marginal", self._marginal, args, kwargs)
        cheap = len(self.members.rest) <= COSTLY_DIM and self.work <= HEAVY_WORK
        return Target(density, work=self.work, hessians=cheap)

    def log_density(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Log γ on the sampler's flat vector."""
        if self.members is None:
            identity = self.identity, "log_density", self.long_sums
            return bind(identity, self._log_density, args, kwargs, self.abstract)
        return self._in_coordinates("log_density", self._density_of_coordinates, args, kwargs)

    def constrain(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Constrained values and deterministic sites of the sampler's flat vector."""
        if self.members is None:
            return bind((self.identity, "constrain"), self._constrain, args, kwargs, self.abstract)
        return self._of_point("constrain", self._constrain, args, kwargs)

    def unraveled(self, args: tuple, kwargs: dict[str, Any], function: Callable | None = None) -> ModelFunction:
        """Unconstrained sites of the sampler's flat vector, for compiled code; or a function of them."""
        apply = function or (lambda sites: sites)
        identity = "unravel", Same(function)
        if self.members is None:
            return plain(lambda x: apply(self.unravel(x)), (self.identity, *identity))
        return self._of_point(identity, lambda args, kwargs, z: apply(self.unravel(z)), args, kwargs)

    def out_of_coordinates(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction | None:
        """The model's flat unconstrained vector and log|det| of the sampler's; None where they are the same."""
        return None if self.members is None else self._in_coordinates("out", self._out, args, kwargs)

    def into_coordinates(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction | None:
        """The sampler's flat vector of the model's flat unconstrained one; None where they are the same."""
        return None if self.members is None else self._in_coordinates("into", self._into, args, kwargs)

    def draw_prior(self, rng_key: Array, num: int, args: tuple, kwargs: dict[str, Any]) -> np.ndarray | None:
        """Draws of the prior on the sampler's flat vector, its members at their modes, shape (num, D).

        In place of draws that are not finite others are repeated. None under transformations, and where the model has
        no prior to draw from, as with an improper one.
        """
        if self.prior_gen is None or in_transformation(rng_key, self.center, args, kwargs):
            return None
        function = bind((self.identity, "prior"), self.prior_gen, args, kwargs, self.abstract)
        try:
            points = np.array(_draws(function, rng_key, num))
        except Exception:  # whatever a model raises that cannot be drawn from
            return None
        finite = np.flatnonzero(np.all(np.isfinite(points), axis=1))
        if len(finite) == 0:
            return None
        points = points[np.resize(finite, num)]
        if self.members is None:
            return points
        return np.concatenate(
            [points[:, self.members.rest], np.zeros((len(points), len(self.members.members)))], axis=1
        )

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.center.shape[0]

    @property
    def cost(self) -> int:
        """Of a gradient on the sampler's flat vector in gradients of the model, about."""
        return 1 if self.members is None else self.members.cost

    @property
    def start(self) -> Array:
        """A point where `marginal` is valid."""
        return self.center if self.members is None else self.members.theta

    def in_coordinates(self, members: Members | None) -> "ModelSetup":
        """The same on a flat vector on which these members are whitened, or on that of the model if there are none."""
        changed = self._replace(members=members)
        return changed._replace(work=self.work // self.cost * changed.cost)

    def find_members(self, args: tuple, kwargs: dict[str, Any]) -> "ModelSetup":
        """The same in coordinates in which its members are whitened, where there are enough of them to pay."""
        small = self.center.shape[0] <= COSTLY_DIM
        if small or self.forward_mode or self.reverse_only or in_transformation(self.center, args, kwargs):
            return self
        density = self.log_density(args, kwargs)
        return self.in_coordinates(find(density, self.center, self.dim <= _MEDIUM_DIM, self.dim <= DENSE_DIM))

    def _in_coordinates(self, what: Hashable, function: Callable, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        return bind((self.identity, what, "members"), function, args, kwargs, self.abstract, self.members)

    def _of_point(self, what: Hashable, function: Callable, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """A function of arguments and the model's flat vector, as one of the sampler's."""

        def moved(args: tuple, kwargs: dict[str, Any], members: Members, v: Array) -> Any:
            return function(args, kwargs, self._out(args, kwargs, members, v)[0])

        return self._in_coordinates(what, moved, args, kwargs)

    def _out(self, args: tuple, kwargs: dict[str, Any], members: Members, v: Array) -> tuple[Array, Array]:
        return laplace.apply(self._plain_density(args, kwargs), members, v)

    def _into(self, args: tuple, kwargs: dict[str, Any], members: Members, z: Array) -> Array:
        return laplace.inverse(self._plain_density(args, kwargs), members, z)

    def _marginal(self, args: tuple, kwargs: dict[str, Any], members: Members, theta: Array) -> Array:
        return laplace.marginal(self._plain_density(args, kwargs), members, theta)

    def _density_of_coordinates(self, args: tuple, kwargs: dict[str, Any], members: Members, v: Array) -> Array:
        log_density = self._plain_density(args, kwargs)
        z, log_det = laplace.apply(log_density, members, v)
        return log_density(z) + log_det

    def _plain_density(self, args: tuple, kwargs: dict[str, Any]) -> Callable[[Array], Array]:
        return jax.jit(lambda z: self._log_density(args, kwargs, z))  # so that the model is traced once

    def _log_density(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Array:
        potential_fn = self.potential_fn_gen(*args, **kwargs)
        plain_value = lambda x: -potential_fn(self.unravel(x))  # noqa: E731
        value = exact_sums(plain_value, x) if self.long_sums else plain_value(x)
        return value if self.idle is None else value + jnp.sum(jnp.where(self.idle, norm.logpdf(x), 0.0))

    def _constrain(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Any:
        values = self.unravel(x)
        return values if self.postprocess_gen is None else self.postprocess_gen(*args, **kwargs)(values)

    def identified(self, args: tuple, kwargs: dict[str, Any]) -> "ModelSetup":
        """The same, with `abstract` found out and `identity` completed by tracing with abstract arrays."""
        tried, traces = self, None
        for kinds in (ALL, REAL, NONE):
            tried = self._replace(abstract=kinds)
            try:
                traces = tried._traces(args, kwargs)
                break
            except Exception:  # whatever a model raises where it must see values
                pass
        if traces is None:  # it will say so where it is run
            return tried._replace(identity=Same(object()))
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        return tried._replace(
            identity=(self.identity, tuple(map(fingerprint, traces))),
            work=work(traces[0]),
            reverse_only=_is_reverse_only(tried.log_density(args, kwargs), self.center),
            given=None if traced else (args, kwargs),
            long_sums=has_long_sums(traces[0]),
        )

    def check_unchanged(self) -> None:
        """Compare what the model does now, given the arguments of the look, with what it did then.

        Raises:
            RuntimeError: if it differs, as after a global variable that the model reads was changed.
        """
        if isinstance(self.identity, Same) or self.given is None:  # it could not be told then either
            return
        bare, then = self.identity  # type: ignore[misc]
        now = map(fingerprint, self._replace(identity=bare, members=None, long_sums=False)._traces(*self.given))
        if any(a != b for a, b in zip(then, now, strict=True) if Same not in (type(a), type(b))):
            raise RuntimeError(
                "The model does something else now than in its last run: a variable that it reads, a handler around "
                "the run, or a setting (float64, matmul precision, NumPyro's validation) has changed since. Give data "
                "as arguments of `run`, or run again."
            )

    @full_precision
    def _traces(self, args: tuple, kwargs: dict[str, Any]) -> tuple[ClosedJaxpr, ClosedJaxpr]:
        """Of the log density and of the map to constrained values."""
        density, constrain = self.log_density(args, kwargs), self.constrain(args, kwargs)
        return trace(density, self.center), trace(constrain, self.center)


@partial(jit_once, static_argnames=("num",))
def _draws(prior: ModelFunction, rng_key: Array, num: int) -> Array:
    return jax.vmap(prior)(random.split(rng_key, num))


def _is_reverse_only(log_density: ModelFunction, center: Array) -> bool:
    try:
        # a function of its own, since JAX keeps what it knows of each call as long as its function lives
        jax.eval_shape(lambda x: Target(log_density).derivatives(x), center)
    except TypeError as error:
        return "custom_vjp" in str(error)
    except Exception:
        return False
    return False
