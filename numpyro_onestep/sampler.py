"""`OneStepSampler`: a `numpyro.infer.MCMC` that trains once and draws in batches, without limit."""

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jax import Array, random
from numpyro.infer import MCMC
from numpyro.util import is_prng_key

from numpyro_onestep import options, sampling
from numpyro_onestep import state as state_
from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.bridge.crossing import Crossing
from numpyro_onestep.compilation import split
from numpyro_onestep.devices import on_one, row
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.members.laplace import same_members
from numpyro_onestep.model.function import ModelFunction, owned, same_leaves
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.results import checkpoint, inference_data, samples
from numpyro_onestep.results.stream import Draws, stream
from numpyro_onestep.run import all_or_nothing, evidence, run_of
from numpyro_onestep.sampling import chains_of
from numpyro_onestep.state import OneStepState
from numpyro_onestep.threads import one_blas_thread
from numpyro_onestep.training.evaluation import History
from numpyro_onestep.trust.evidence import Evidence
from numpyro_onestep.warmup import warmup

__all__ = ["Draws", "OneStepSampler"]


class OneStepSampler(MCMC):
    """NumPyro's `MCMC` for a `OneStep` kernel, batched: same constructor, same accessors, plus evidence and `draw`.

    One flow is trained for all chains. The draws of a run are independent proposals, put through one
    independence-Metropolis chain each (or resampled, or left as they are: see `OneStep(correction=...)`).

    Args:
        sampler: the kernel.
        num_warmup: training iterations; 1000 gives the full quality.
        num_samples: draws per chain.
        num_chains: chains.
        thinning: keep every `thinning`-th draw.
        progress_bar: show training progress: DF-ELBO, ESS and folds.
        **kwargs: further arguments of `numpyro.infer.MCMC`.

    Raises:
        TypeError: if `sampler` is not a `OneStep` kernel.
        ValueError: if a count is out of range.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist
        >>> from numpyro_onestep import OneStep, OneStepSampler
        >>> def model():
        ...     numpyro.sample("x", dist.Gamma(3.0, 2.0))
        >>> sampler = OneStepSampler(OneStep(model), num_warmup=100, num_samples=50, num_chains=2, progress_bar=False)
        >>> sampler.run(jax.random.key(0))
        >>> sampler.draw(jax.random.key(1), 7).samples["x"].shape
        (7,)
    """

    def __init__(
        self,
        sampler: OneStep,
        *,
        num_warmup: int = 1000,
        num_samples: int = 1000,
        num_chains: int = 4,
        thinning: int = 1,
        progress_bar: bool = True,
        **kwargs: Any,
    ):
        if not isinstance(sampler, OneStep):
            raise TypeError(f"OneStepSampler needs a OneStep kernel, not {type(sampler).__name__}.")
        options.check_function("postprocess_fn", kwargs.get("postprocess_fn"))
        super().__init__(
            sampler,
            num_warmup=num_warmup,
            num_samples=num_samples,
            num_chains=options.whole("num_chains", num_chains),
            thinning=thinning,
            progress_bar=progress_bar,
            **{"chain_method": "vectorized", **kwargs},
        )
        self._args: tuple = ()
        self._kwargs: dict[str, Any] = {}
        self._evidence: Evidence | None = None
        self._evidence_key: Array | None = None
        self._bridges: list[Crossing] | None = None  # that the draws of the last run come from
        self.num_gradients = 0  # of the target, that the last warmup took
        self.history: History | None = None  # the evaluations of the last training
        self.setup: ModelSetup | None = None  # what the kernel saw of the model in the last run
        self._audited: tuple[Any, Hashable, Audit | None] | None = None  # flow and arguments, model, audit

    @one_blas_thread()
    def run(  # type: ignore[override]
        self,
        rng_key: Array,
        *args: Any,
        extra_fields: tuple[str, ...] = (),
        init_params: Any = None,
        warm_start: bool = False,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train (unless `post_warmup_state` is set) and draw.

        Args:
            rng_key: one key, or one for each chain.
            *args: arguments of the model.
            extra_fields: further fields of `OneStepState` to collect: "potential_energy", "log_weight",
                "accept_prob", "num_steps"; "~z.site" leaves a site out.
            init_params: unconstrained values of the first starting point, or of one for each chain along a leading
                axis, of which the first counts; needed with a potential function.
            warm_start: train on from the flow trained last, for other data of the same shape: the fewer iterations the
                better it fits them, and none where it fits already.
            checkpoint: file that keeps what warmup has finished so far, at least every 30 s of training; after an
                interruption the same call goes on from there, and ends as it would have without.
            **kwargs: keyword arguments of the model.

        Raises:
            ValueError: if `num_warmup` is 0 or there is no flow to start from, and nothing was trained; if
                `init_params` has the wrong leading axis; if a warm start's flow has another dimension; or if the
                checkpoint is damaged or of another run.
            AttributeError: if an extra field does not exist.
        """
        with all_or_nothing(self):
            key_train, key_draw = self._begin(rng_key, args, kwargs, init_params, extra_fields)
            state = None if warm_start else self._warmup_state
            if state is not None and checkpoint is not None:
                raise ValueError("`checkpoint` keeps a training, but there is none: `post_warmup_state` is set.")
            if state is not None or any(map(samples.names_site, extra_fields)):
                setup = self._look(key_train, init_params, state)  # the data may be others than those of the training
                samples.check_sites(extra_fields, setup, self._constrainer())
            if state is None:
                state = self._train(key_train, init_params, warm_start, checkpoint)
                if self._warmup_state is not None:  # the next run goes on from here
                    self._warmup_state = state
            state_.check_dim(state_.trained_flows(state)[0].base, self.setup.dim)  # type: ignore[arg-type]
            self._draw_chains(key_draw, state, extra_fields)

    @one_blas_thread()
    def warmup(  # type: ignore[override]
        self,
        rng_key: Array,
        *args: Any,
        extra_fields: tuple[str, ...] = (),
        collect_warmup: bool = False,
        init_params: Any = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        """Train only; `run` then draws from the trained flow without training again. Arguments are those of `run`.

        Raises:
            ValueError: as in `run`, and if `collect_warmup` is True: there are no chains during batched training.
        """
        if collect_warmup:
            raise ValueError("OneStepSampler has no warmup draws to collect; use MCMC(OneStep(model)) for them.")
        with all_or_nothing(self):
            key_train, _ = self._begin(rng_key, args, kwargs, init_params, extra_fields)
            self._warmup_state = self._last_state = self._train(key_train, init_params, False, checkpoint)

    @property
    def evidence(self) -> Evidence:
        """The log evidence from 4096 fresh proposals, or the run's bridge, computed at the first access."""
        result = self._evidence
        if result is None:
            state_.trained_flows(self._last_state)  # or it says what is missing
            token, identity, audit = self._audited or (None, None, None)
            same = same_leaves(token, self._audit_token(self._last_state))
            known = audit if same and identity == self.setup.identity else None  # type: ignore[union-attr]
            key: Any = self._evidence_key
            self._evidence = result = evidence(self, key, audited=known, bridges=self._bridges)
        return result

    def draw(self, rng_key: Array, num_draws: int, num_steps: int | None = None) -> Draws:
        """Fresh, independent draws of the flow with their log weights, as NumPy arrays: any number, any step budget.

        Args:
            rng_key: random key.
            num_draws: number of draws; memory holds them once, and little more.
            num_steps: evaluations per draw, a power of two up to 128; by default the kernel's. The weights are exact
                for every budget, and vary less the more evaluations there are.

        Raises:
            ValueError: if nothing was trained, a count is out of range, or the draws do not fit into memory.
        """
        return next(self.draws(rng_key, num_draws, num_draws, num_steps))

    def draws(
        self, rng_key: Array, num_draws: int, chunk: int = 100_000, num_steps: int | None = None
    ) -> Iterator[Draws]:
        """What `draw` returns, as an iterator over `Draws` of `chunk` each, the last one shorter: a stream.

        The same draws for every `chunk`, made as they are asked for. Raises as `draw` does, at once.
        """
        return stream(run_of(self, "draw()"), self._constrainer, rng_key, num_draws, num_steps, chunk)

    def print_summary(self, prob: float = 0.9, exclude_deterministic: bool = True) -> None:
        """NumPyro's table, and two lines below it: the log evidence, and whether to believe the result."""
        super().print_summary(prob, exclude_deterministic)
        print(self.evidence.summary())

    def to_inference_data(self, **kwargs: Any) -> Any:
        """ArviZ `InferenceData` (0.23) or `DataTree` (1.x) with the evidence; arguments are those of `from_numpyro`."""
        return inference_data.to_inference_data(self, **kwargs)

    def save(self, path: str | Path) -> None:
        """Write the trained flow, the model arguments and the draws to one file, without code."""
        checkpoint.save(self, path)

    @classmethod
    def load(cls, path: str | Path, sampler: OneStep, postprocess_fn: Callable | None = None) -> "OneStepSampler":
        """Read what `save` wrote; it stored no code: `sampler` is the same `OneStep(model)`, like `postprocess_fn`."""
        return checkpoint.load(cls, path, sampler, postprocess_fn)

    def _begin(
        self, rng_key: Array, args: tuple, kwargs: dict, init_params: Any, extra_fields: tuple[str, ...]
    ) -> tuple[Array, Array]:
        """Check what was given, keep the arguments, forget the last run's results; keys for training and draws."""
        options.check_key(rng_key, self.num_chains)
        samples.check_fields(extra_fields)
        # of its own: a caller's array may change before the evidence is asked for
        self._args, self._kwargs = owned((args, kwargs), (self._args, self._kwargs))
        self._evidence = self._states = self._states_flat = self._bridges = None
        single = rng_key if is_prng_key(rng_key) else rng_key[0]
        key_train, key_draw, self._evidence_key, *_ = split(single)
        return key_train, key_draw

    def _look(self, rng_key: Array, init_params: Any, state: Any = None) -> ModelSetup:
        """Look at the model for the arguments of this run, at the state's structure where nothing else tells it."""
        point = samples.one_point(init_params, self.num_chains, self.sampler._potential_fn)
        if point is None and self.sampler.model is None and state is not None:
            point = state_.first_values(state)
        setup = self.sampler.look(rng_key, point, self._args, self._kwargs)
        options.check_room(self.num_chains * self.num_samples, 3 * setup.center.nbytes)
        self.setup = setup = setup.in_coordinates(None if state is None else state_.trained_flows(state)[0].members)
        return setup

    def _train(self, rng_key: Array, init_params: Any, warm_start: bool, checkpoint: str | Path | None) -> OneStepState:
        """Find the base, train and audit."""
        earlier: Any = self._warmup_state if self._last_state is None else self._last_state
        before = earlier if warm_start and state_.trained_flows(earlier) else None  # without any it raises
        kernel, given = self.sampler, (self._args, self._kwargs)
        self.setup = setup = self._look(split(rng_key)[0], init_params).find_members(*given)
        if before is not None and not same_members(before.members, setup.members):
            before = None  # its flow is one of other coordinates
        drawing = kernel.correction, kernel.bridge, (self.num_chains, self.num_samples), kernel.num_steps, self.thinning
        done = warmup(
            rng_key,
            setup,
            given,
            kernel.plan(setup.dim, setup.work),
            self.num_warmup,
            init_scale=kernel.init_scale,
            num_steps=kernel.num_steps,
            coverage_audit=kernel.coverage_audit,
            progress_bar=self.progress_bar,
            mesh=row(kernel.mesh, setup.work),
            before=before,
            checkpoint=checkpoint,
            expect=partial(sampling.expect, rng_key, *drawing),
        )
        keys = done.rng_key if self.num_chains == 1 else random.split(done.rng_key, self.num_chains)
        self.num_gradients, self.history = done.num_gradients * setup.cost, done.history
        state = state_.trained_state(keys, setup, given, kernel.num_steps, done.base, done.trained)
        self._audited = self._audit_token(state), setup.identity, done.audit
        return state

    def _audit_token(self, state: Any) -> Any:
        return state.train.best, self._args, self._kwargs

    def _constrainer(self) -> ModelFunction:
        """From a flat unconstrained point to constrained samples, by the user's `postprocess_fn` if there is one."""
        setup: Any = self.setup
        if self.postprocess_fn is None:
            return setup.constrain(self._args, self._kwargs)
        return setup.unraveled(self._args, self._kwargs, self.postprocess_fn)

    def _draw_chains(self, rng_key: Array, state: OneStepState, extra_fields: tuple[str, ...]) -> None:
        """Fill the chains with corrected draws and leave a state from which `run` can go on."""
        setup: Any = self.setup
        kernel, shape = self.sampler, (self.num_chains, self.num_samples)
        flows = state_.flows_of(state, setup.target(self._args, self._kwargs), row(kernel.mesh, setup.work))
        before = state_.acceptance(state, shape[0])
        how = kernel.correction, kernel.bridge, shape, kernel.num_steps, self.thinning, before
        drawn, self._bridges = chains_of(rng_key, flows, *how, self.progress_bar)
        self.num_gradients += setup.cost * sum(bridge.num_gradients for bridge in self._bridges or ())
        drawn = samples.in_model(on_one(drawn), setup.out_of_coordinates(self._args, self._kwargs))
        fields, unravel = (*self._default_fields, *extra_fields), setup.unraveled(self._args, self._kwargs)
        self._states = samples.by_chain(drawn, fields, self._constrainer(), unravel)
        self._states_flat = None
        z = samples.over_points(unravel, drawn.last_points)
        self._last_state = state_.after_draws(
            state, random.split(split(rng_key)[3], self.num_chains), z, drawn.last_fields
        )
