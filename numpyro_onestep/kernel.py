"""`OneStep`: the kernel for NumPyro's own `MCMC`. Warmup trains the flow; each later iteration is one exact move."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array, random
from jax.core import Tracer
from jax.sharding import Mesh
from numpyro.infer import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import identity, is_prng_key

from numpyro_onestep import options
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.base.search import num_drawn, search_model
from numpyro_onestep.check import Check, check
from numpyro_onestep.compilation import full_precision, make_room, split
from numpyro_onestep.draws.proposal import BRIDGES
from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.iteration import iterate
from numpyro_onestep.model.initialize import setup_model, setup_potential
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.state import OneStepState, first_state
from numpyro_onestep.threads import one_blas_thread
from numpyro_onestep.training import fit
from numpyro_onestep.training.evaluation import describe
from numpyro_onestep.training.plan import Plan, finer_budgets, make_plan

__all__ = ["OneStep"]

_CORRECTIONS = ("metropolis", "resample", "none")
_MOST = 10_000  # of anything that memory is needed for


class OneStep(MCMCKernel):
    """Draws from one evaluation of a trained network each, corrected to be exact, with a log-evidence estimate.

    The step-conditioned deterministic flow of "One-Step Diffusion Samplers via Self-Distillation and Deterministic
    Flow" (arXiv 2512.05251), made of maps that are injective everywhere and have exact log-determinants. During the
    `num_warmup` iterations the base is found and the flow is trained; each later iteration proposes a fresh,
    independent draw and accepts it by its importance weight (independence Metropolis-Hastings).

    Use it in `numpyro.infer.MCMC`, or in `OneStepSampler`, which draws in batches and estimates the evidence as well.
    With `chain_method="vectorized"` all chains share one trained flow; with other methods each chain trains its own.

    Args:
        model: NumPyro model. Exactly one of `model` and `potential_fn` must be given.
        potential_fn: potential energy −log γ of the (unconstrained) parameters; then `init_params` must be given to
            `run`. The evidence is that of γ as it stands, constants included.
        num_steps: evaluations per draw, a power of two up to 128: the flow's, and one for each Hamiltonian step after
            it. The more, the less the weights vary.
        budgets: budgets to refine as in the paper, as maps of so many steps, in the same warmup, each for half as long
            as the one-step map; up to the finest of them there are no Hamiltonian steps.
        correction: "metropolis" (default, exact), "resample" (each draw chosen by weight: from 32, or by
            `OneStepSampler` from twice as many as there are draws, so that some repeat) or "none" (as drawn).
        init_strategy: NumPyro initialisation strategy of the first starting point.
        init_scale: spread, in unconstrained space, of the starting points around the first one.
        target_ess: share of one-step draws that is to be effective, held out, tails included. Training ends when it is
            reached, or when more of it no longer pays; `num_warmup` is only the longest that it may take. With 1, and
            where finer budgets are refined, training is in full.
        width: ridge directions of each block of the network, by default 128 up to 64 dimensions and 32 above.
        num_blocks: blocks of one step.
        batch_size: base draws per optimiser step; by default 64, and 128 up to 16 dimensions with `target_ess=1.0`.
        steps_per_iteration: optimiser steps of one warmup iteration; by default 10 to 3, the fewer the more dimensions.
        learning_rate: peak learning rate.
        state_consistency: weight of self-distillation, one step against two halves, of `budgets` whose double is one.
        volume_consistency: weight of the same for the log-determinants.
        bridge: "auto" (default) bridges where one evaluation is not enough: the draws of `OneStepSampler` where less
            than half of them are effective, and log Z also where its checks fail. They then come from particles on the
            way from base to target. "always", with which the chains of a stock `MCMC` make local
            moves as well, and "never" as named. Draws are left alone with `correction="none"`.
        coverage_audit: look for mass that the flow does not reach, and bound log Z from above; `OneStepSampler` trains
            once more where mass is missing.
        num_replicates: flows to train at once from the same base, at as many times the cost. Draws come from all of
            them, and the error of log Z counts the spread between them.
        mesh: devices that share out draws, in training too. By default all that JAX has, on all hosts, where the model
            computes 10⁶ numbers in an evaluation, for `sampler.draw` 10⁴; a mesh of one device leaves all to one.
        forward_mode_differentiation: use forward mode, for models with `while_loop`.

    Raises:
        ValueError: if both or none of `model` and `potential_fn` are given, or an option is out of range.
        TypeError: if an option is of another type.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from numpyro.infer import MCMC
        >>> from numpyro_onestep import OneStep
        >>> def model():
        ...     numpyro.sample("x", dist.Gamma(3.0, 2.0))
        >>> mcmc = MCMC(OneStep(model), num_warmup=100, num_samples=100, progress_bar=False)
        >>> mcmc.run(jax.random.key(0))
        >>> mcmc.get_samples()["x"].shape
        (100,)
    """

    def __init__(
        self,
        model: Callable | None = None,
        potential_fn: Callable | None = None,
        *,
        num_steps: int = 1,
        budgets: Sequence[int] = (),
        correction: str = "metropolis",
        init_strategy: Callable = init_to_uniform,
        init_scale: float = 3.0,
        target_ess: float = 0.9,
        width: int | None = None,
        num_blocks: int = 3,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        learning_rate: float = 0.03,
        state_consistency: float = 0.0,
        volume_consistency: float = 0.0,
        bridge: str = "auto",
        coverage_audit: bool = True,
        num_replicates: int = 1,
        mesh: Mesh | None = None,
        forward_mode_differentiation: bool = False,
    ):
        if (model is None) == (potential_fn is None):
            raise ValueError("Exactly one of `model` and `potential_fn` must be given to OneStep.")
        for what in ("model", model), ("potential_fn", potential_fn), ("init_strategy", init_strategy):
            options.check_function(*what)
        options.check_one_of("correction", correction, _CORRECTIONS)
        options.check_one_of("bridge", bridge, BRIDGES)
        self._model, self._potential_fn = model, potential_fn
        self.num_steps = check_num_steps(num_steps)
        self.correction, self.bridge = correction, bridge
        self._init_strategy = init_strategy
        self.init_scale = options.real("init_scale", init_scale, "a positive number", lambda v: v > 0)
        self.coverage_audit = options.flag("coverage_audit", coverage_audit)
        self.num_replicates = options.whole("num_replicates", num_replicates, most=_MOST)
        self.mesh = options.mesh(mesh)
        self._forward_mode = options.flag("forward_mode_differentiation", forward_mode_differentiation)
        least_0 = partial(options.real, must_be="a number of at least 0", holds=lambda v: v >= 0)
        consistency = least_0("state_consistency", state_consistency), least_0("volume_consistency", volume_consistency)
        sizes = {"width": width, "batch_size": batch_size, "steps_per_iteration": steps_per_iteration}
        self._plan: dict[str, Any] = {
            "budgets": finer_budgets(budgets, consistency),
            "learning_rate": options.real("learning_rate", learning_rate, "a positive number", lambda v: v > 0),
            "consistency": consistency,
            "num_blocks": options.whole("num_blocks", num_blocks, most=_MOST),
            "num_replicates": self.num_replicates,
            "target_ess": options.real("target_ess", target_ess, "above 0 and at most 1", lambda v: 0 < v <= 1),
            **{name: n if n is None else options.whole(name, n, most=_MOST) for name, n in sizes.items()},
        }
        self._setup: ModelSetup | None = None
        self._sample_fn: Callable | None = None  # NumPyro calls `init` again on every run while this is None

    @property
    def model(self) -> Callable | None:
        """The model, or None for a potential function."""
        return self._model

    @property
    def sample_field(self) -> str:
        """The field of the state that holds the draws."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """The fields collected without asking."""
        return ("z", "diverging")

    @property
    def setup(self) -> ModelSetup:
        """What was learnt from the model at the last `init`.

        Raises:
            RuntimeError: before the first run.
        """
        if self._setup is None:
            raise RuntimeError("This OneStep kernel has not been run yet: call `run` first.")
        return self._setup

    def get_diagnostics_str(self, state: OneStepState) -> str:
        """Progress bar text: the training's DF-ELBO, ESS and folds, then the mean acceptance probability."""
        if state.train is None:
            return ""
        return f"{describe(state.train)} acc. prob={float(state.mean_accept_prob):.2f}"

    def postprocess_fn(self, args: tuple, kwargs: dict[str, Any]) -> Callable[[Any], Any]:
        """Map from unconstrained values to constrained ones and deterministic sites."""
        if self._setup is None or self._setup.postprocess_gen is None:
            return identity
        return self._setup.postprocess_gen(*args, **kwargs)

    def plan(self, dim: int, work: int = 0) -> Plan:
        """The training plan in `dim` dimensions, for a target whose evaluation computes `work` numbers."""
        return make_plan(dim, **self._plan, work=work)

    @full_precision
    def look(
        self, rng_key: Array, init_params: Any, args: tuple, kwargs: dict[str, Any], fill_idle: bool = True
    ) -> ModelSetup:
        """Look at the model or the potential function once, before anything is traced."""
        make_room()
        self._sample_fn = self.sample
        if self._model is None:
            setup = setup_potential(self._potential_fn, init_params, self._forward_mode)  # type: ignore[arg-type]
        else:
            how: dict[str, Any] = {"forward_mode": self._forward_mode, "fill_idle": fill_idle}
            how |= {"init_strategy": self._init_strategy, "init_params": init_params}
            setup = setup_model(rng_key, self._model, args, kwargs, **how)
        self._setup = setup
        return setup

    @one_blas_thread()
    @full_precision
    def check(self, *args: Any, init_params: Any = None, **kwargs: Any) -> Check:
        """A first look without a run, to be printed: sites, what to know of the evidence, how long a run may take.

        The arguments are the model's; `init_params` is as in `run`.
        """
        setup = self.look(random.key(0), init_params, args, kwargs)
        return check(self._model, setup, self.plan(setup.dim, setup.work), random.key(0), args, kwargs)

    @one_blas_thread()
    @full_precision
    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: tuple = (),
        model_kwargs: dict[str, Any] | None = None,
    ) -> OneStepState:
        """Find the base and set up the flow; the state's chains start at the base's centre.

        Args:
            rng_key: one key, or a batch of keys for vectorized chains.
            num_warmup: training iterations; with 0 the state is untrained and `sample` refuses it.
            init_params: unconstrained values of the first starting point (with a leading axis of chains if vectorized).
            model_args: arguments of the model.
            model_kwargs: keyword arguments of the model.
        """
        options.check_key(rng_key, *options.keys_shape(rng_key)[:1])
        args, kwargs = model_args, model_kwargs or {}
        single = is_prng_key(rng_key)
        key_setup, key_base, key_train, *_ = split(rng_key if single else rng_key[0])
        if not single and init_params is not None:
            init_params = jax.tree.map(lambda leaf: leaf[0], init_params)
        setup = self.look(key_setup, init_params, args, kwargs, fill_idle=False)  # other arguments may follow
        trained, base = None, None
        if num_warmup > 0:
            setup = setup if single else setup.find_members(args, kwargs)
            drawn = setup.draw_prior(key_setup, num_drawn(setup.work), args, kwargs)
            base = search_model(setup, (args, kwargs), self.init_scale, key_base, drawn)
            base = base_.pad(base) if single else base  # states of single chains are stacked in the end
            problem = Problem(base, setup.target(args, kwargs))
            trained = fit.start(key_train, problem, self.plan(base.dim, setup.work), num_warmup)
        state = first_state(rng_key, setup, (args, kwargs), self.num_steps, base, trained)
        if isinstance(setup.center, Tracer):  # it must not outlive the transformation
            self._setup = setup._replace(center=np.zeros(setup.center.shape, setup.center.dtype))
        return state

    @full_precision
    def sample(self, state: OneStepState, model_args: tuple, model_kwargs: dict[str, Any]) -> OneStepState:
        """One iteration: training while `i < num_warmup`, then an exact move of each chain.

        Everything learnt is read from `state`. During training every proposal is taken, since the weights of earlier
        draws belong to an earlier flow.

        Raises:
            ValueError: if the state was never trained (`num_warmup=0` without a trained `post_warmup_state`), or has
                more or fewer chains.
        """
        if state.train is None or state.base is None:
            raise ValueError(
                "OneStep has no trained flow: `num_warmup=0` leaves it untrained. Use num_warmup ≥ 1 (1000 gives the "
                "full quality), or set `mcmc.post_warmup_state` to the `last_state` of an earlier run."
            )
        if np.ndim(state.i) and len(state.i) != len(state.rng_key):
            raise ValueError(
                f"The state is one of {len(state.i)} chains, this run has {len(state.rng_key)}: take as many, "
                "or train again."
            )
        setup = self.setup.in_coordinates(state.members)
        problem = Problem(state.base, setup.target(model_args, model_kwargs))
        plan = self.plan(state.base.dim, setup.work)
        trained = fit.advance(state.train, problem, plan, 1)
        return iterate(
            state,
            trained,
            problem,
            setup.unraveled(model_args, model_kwargs),
            setup.out_of_coordinates(model_args, model_kwargs),
            num_steps=self.num_steps,
            finest=2**plan.num_levels,
            correction=self.correction,
            bridge=self.bridge,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without compiled functions."""
        return {**self.__dict__, "_sample_fn": None}
