"""A trained sampler in one file (arrays and plain values with a checksum; no code, no pickle)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from numpyro_onestep import archive
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.encoding import named, plain
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.members.laplace import Members
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.run import run_of
from numpyro_onestep.state import check_dim, trained_flows, trained_state
from numpyro_onestep.threads import one_blas_thread
from numpyro_onestep.training.fit import start
from numpyro_onestep.trust.evidence import Evidence

__all__ = ["load", "save"]

_KIND, _FORMAT = "checkpoint", 12
_COUNTS = ("num_warmup", "num_samples", "num_chains", "thinning")
_SCORES = ("best_elbo", "best_log_z")  # of each flow


class _Saved(NamedTuple):
    """What a file holds, all but the model."""

    num_steps: int
    postprocessed: bool
    counts: dict[str, int]
    networks: list[StepNetwork]
    scores: dict[str, Array]
    base: Base
    args: tuple
    kwargs: dict[str, Any]
    members: Members | None
    init_params: Any
    log_density: np.ndarray
    states: dict[str, Any]
    evidence: Evidence


@one_blas_thread()
def save(sampler: Any, path: str | Path) -> None:
    """Write flow, base, model arguments, draws and evidence.

    Raises:
        ValueError: if nothing was trained, or the chains trained on bases of their own.
        TypeError: if a model argument or parameter is not made of arrays, numbers, strings, None, lists, tuples, dicts.
    """
    flows = trained_flows(sampler.last_state)
    if jnp.ndim(sampler.last_state.base.annealed) > 0:
        raise ValueError("save() stores flows on one base; the chains of this state each trained on their own.")
    run = run_of(sampler, "save()")
    setup = run.setup
    saved = _Saved(
        num_steps=sampler.sampler.num_steps,
        postprocessed=sampler.postprocess_fn is not None,
        counts={k: getattr(sampler, k) for k in _COUNTS},
        networks=[flow.train.best.arrays() for flow in flows],  # type: ignore[union-attr]
        scores={name: np.array([getattr(flow.train, name) for flow in flows]) for name in _SCORES},  # type: ignore
        base=flows[0].base,  # type: ignore[arg-type]
        args=sampler._args,
        kwargs=sampler._kwargs,
        members=setup.members and vars(setup.members),  # type: ignore[arg-type]
        init_params=setup.unravel(setup.center),
        log_density=np.asarray(setup.marginal(run.args, run.kwargs).value(setup.start)),
        states=sampler._states,
        evidence=sampler.evidence,
    )
    archive.write(path, _KIND, _FORMAT, plain(saved))


@one_blas_thread()
def load(cls: Any, path: str | Path, kernel: OneStep, postprocess_fn: Callable | None = None) -> Any:
    """Read a file written by `save` into a new sampler around `kernel`, the same model again.

    Raises:
        ValueError: if the file is damaged or none of this format, or model, dimension, step budget or postprocessing
            are not the saved ones.
        TypeError: if `kernel` is no `OneStep`.
    """
    if not isinstance(kernel, OneStep):
        raise TypeError(f"load() needs a OneStep kernel around the saved model, not {type(kernel).__name__}.")
    saved = _read(path)
    if saved.num_steps != kernel.num_steps:
        raise ValueError(f"{path} was trained with num_steps={saved.num_steps}, not {kernel.num_steps}.")
    if len(saved.networks) != kernel.num_replicates:
        raise ValueError(f"{path} holds num_replicates={len(saved.networks)}, not {kernel.num_replicates}.")
    if saved.postprocessed != (postprocess_fn is not None):
        raise ValueError(f"{path} was saved with{'' if saved.postprocessed else 'out'} a `postprocess_fn`.")
    sampler = cls(kernel, **saved.counts, postprocess_fn=postprocess_fn)
    sampler._args, sampler._kwargs = given = saved.args, saved.kwargs
    key, base = random.key(0), saved.base
    setup = _look(path, kernel, saved)
    trained = start(key, Problem(base, setup.target(*given)), kernel.plan(base.dim, setup.work), sampler.num_warmup)
    networks = saved.networks
    best = networks[0] if len(networks) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    scores = {name: score.reshape(trained.done.shape) for name, score in saved.scores.items()}
    done = trained._replace(best=best, iteration=trained.num_iterations, done=jnp.ones_like(trained.done), **scores)
    keys = key if sampler.num_chains == 1 else random.split(key, sampler.num_chains)
    sampler._last_state = sampler._warmup_state = trained_state(keys, setup, given, kernel.num_steps, base, done)
    sampler.setup, sampler._states, sampler._evidence = setup, saved.states, saved.evidence
    return sampler


def _read(path: str | Path) -> _Saved:
    content = archive.read(path, _KIND, _FORMAT)
    try:
        saved = _Saved(**content)
        members = content["members"]
        arrays = {name: jnp.asarray(part) for name, part in (members or {}).items() if isinstance(part, np.ndarray)}
        return saved._replace(
            counts={name: content["counts"][name] for name in _COUNTS},
            scores={name: jnp.asarray(content["scores"][name]) for name in _SCORES},
            networks=[StepNetwork.from_arrays(arrays) for arrays in content["networks"]],
            base=named(Base, content["base"], jnp.asarray),
            members=members and Members(**{**members, **arrays}),
            init_params=jax.tree.map(jnp.asarray, content["init_params"]),
            evidence=Evidence(**content["evidence"]),
        )
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} lacks parts of a numpyro-onestep {_KIND}: {error}.") from error


def _look(path: str | Path, kernel: OneStep, saved: _Saved) -> ModelSetup:
    """Look at the model with the arguments of the file, whose density at the saved point must be the saved one."""
    given = saved.args, saved.kwargs
    try:
        setup = kernel.look(random.key(0), saved.init_params, *given)
        check_dim(saved.base, setup.dim)
        setup = setup.in_coordinates(saved.members)
        value = setup.marginal(*given).value(setup.start)
    except Exception as error:  # the model's own, where it is another one
        raise ValueError(
            f"{path} does not fit this model, with the arguments that were saved. {type(error).__name__}: {error}"
        ) from error
    digits = max(jnp.finfo(value.dtype).eps, jnp.finfo(saved.log_density.dtype).eps)
    if not np.isclose(value, saved.log_density, rtol=100 * digits, atol=1e-3):  # sums may run in another order
        raise ValueError(
            f"{path} was made with another model: its log density at the saved point was {saved.log_density:.6g}, "
            f"here it is {value:.6g}. Load it with the model that it was trained on."
        )
    return setup
