"""A trained sampler in one file (msgpack of arrays and plain values; no code, no pickle)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from jax import random

from numpyro_onestep.base.conditional_scale import Whitening
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.mixture_vi import Mixture
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.members.laplace import Members
from numpyro_onestep.run import run_of
from numpyro_onestep.state import check_dim, trained_flows, trained_state
from numpyro_onestep.training.fit import start
from numpyro_onestep.trust.evidence import Evidence

__all__ = ["load", "save"]

_FORMAT = 8
_TUPLE = "__tuple__"
_SCORES = ("best_elbo", "best_log_z")  # of each flow


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
    content = {
        "format": _FORMAT,
        "num_steps": sampler.sampler.num_steps,
        "postprocessed": sampler.postprocess_fn is not None,
        "counts": {k: getattr(sampler, k) for k in ("num_warmup", "num_samples", "num_chains", "thinning")},
        "networks": [_encode(flow.train.best.arrays(), "network") for flow in flows],  # type: ignore[union-attr]
        "scores": {name: np.array([getattr(flow.train, name) for flow in flows]) for name in _SCORES},
        "base": _encode(_nested(flows[0].base), "base"),
        "args": _encode(sampler._args, "args"),
        "kwargs": _encode(sampler._kwargs, "kwargs"),
        "members": None if setup.members is None else _encode(vars(setup.members), "members"),
        "init_params": _encode(setup.unravel(setup.center), "init_params"),
        "log_density": np.asarray(setup.marginal(run.args, run.kwargs).value(setup.start)),
        "states": _encode(sampler._states, "draws"),
        "evidence": _encode(sampler.evidence._asdict(), "evidence"),
    }
    Path(path).write_bytes(msgpack_serialize(content))


def load(cls: Any, path: str | Path, kernel: OneStep, postprocess_fn: Callable | None = None) -> Any:
    """Read a file written by `save` into a new sampler around `kernel`, the same model again.

    Raises:
        ValueError: if the file is not of this format, or dimension, density, step budget or postprocessing are not the
            saved ones.
    """
    try:
        content = msgpack_restore(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a numpyro-onestep checkpoint.") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a numpyro-onestep checkpoint of format {_FORMAT}.")
    if content["num_steps"] != kernel.num_steps:
        raise ValueError(f"{path} was trained with num_steps={content['num_steps']}, not {kernel.num_steps}.")
    if len(content["networks"]) != kernel.num_replicates:
        raise ValueError(f"{path} holds num_replicates={len(content['networks'])}, not {kernel.num_replicates}.")
    if content["postprocessed"] != (postprocess_fn is not None):
        raise ValueError(f"{path} was saved with{'' if content['postprocessed'] else 'out'} a `postprocess_fn`.")
    sampler = cls(kernel, **content["counts"], postprocess_fn=postprocess_fn)
    sampler._args, sampler._kwargs = _decode(content["args"]), _decode(content["kwargs"])
    base = jax.tree.map(jnp.asarray, _decode(content["base"]))
    base = Base(**{**base, "mixture": Mixture(**base["mixture"]), "whitening": Whitening(**base["whitening"])})
    key = random.key(0)
    init_params = jax.tree.map(jnp.asarray, _decode(content["init_params"]))
    setup = kernel.look(key, init_params, sampler._args, sampler._kwargs)
    check_dim(base, setup.dim)
    parts = content["members"] and _decode(content["members"])
    arrays = {name: jnp.asarray(part) for name, part in (parts or {}).items() if isinstance(part, np.ndarray)}
    setup = setup.in_coordinates(parts and Members(**{**parts, **arrays}))
    target = setup.target(sampler._args, sampler._kwargs)
    value = setup.marginal(sampler._args, sampler._kwargs).value(setup.start)
    digits = max(jnp.finfo(value.dtype).eps, jnp.finfo(content["log_density"].dtype).eps)
    if not np.isclose(value, content["log_density"], rtol=100 * digits, atol=1e-3):  # sums may run in another order
        raise ValueError(
            f"{path} was made with another model: its log density at the saved point was {content['log_density']:.6g}, "
            f"here it is {value:.6g}. Load it with the model that it was trained on."
        )
    trained = start(key, Problem(base, target), kernel.plan(base.dim, setup.work), sampler.num_warmup)
    networks = [StepNetwork.from_arrays(_decode(arrays)) for arrays in content["networks"]]
    best = networks[0] if len(networks) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    scores = {name: jnp.asarray(content["scores"][name]).reshape(trained.done.shape) for name in _SCORES}
    done = trained._replace(best=best, iteration=trained.num_iterations, done=jnp.ones_like(trained.done), **scores)
    keys = key if sampler.num_chains == 1 else random.split(key, sampler.num_chains)
    sampler._last_state = sampler._warmup_state = trained_state(
        keys, setup, (sampler._args, sampler._kwargs), kernel.num_steps, base, done
    )
    sampler.setup = setup
    sampler._states = _decode(content["states"])
    sampler._evidence = Evidence(**_decode(content["evidence"]))
    return sampler


def _nested(record: Any) -> Any:
    """Named tuples as dicts, all the way down."""
    return {k: _nested(v) for k, v in record._asdict().items()} if hasattr(record, "_asdict") else record


def _encode(tree: Any, what: str) -> Any:
    """A copy that msgpack can hold: tuples are tagged, arrays become NumPy arrays."""
    if isinstance(tree, dict):
        if not all(isinstance(k, str) and k != _TUPLE for k in tree):
            raise TypeError(f"save() cannot store {what}: its keys must be strings, not {list(tree)}.")
        return {k: _encode(v, f"{what}['{k}']") for k, v in tree.items()}
    if type(tree) is tuple:
        return {_TUPLE: [_encode(v, f"{what}[{i}]") for i, v in enumerate(tree)]}
    if type(tree) is list:
        return [_encode(v, f"{what}[{i}]") for i, v in enumerate(tree)]
    if isinstance(tree, jax.Array | np.ndarray | np.generic):
        return np.asarray(tree)
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(
        f"save() cannot store {what}, a {type(tree).__name__}: use arrays, numbers, strings, None, lists, "
        "tuples and dicts."
    )


def _decode(tree: Any) -> Any:
    """The inverse of `_encode`."""
    if isinstance(tree, dict):
        return tuple(_decode(v) for v in tree[_TUPLE]) if _TUPLE in tree else {k: _decode(v) for k, v in tree.items()}
    return [_decode(v) for v in tree] if isinstance(tree, list) else tree
