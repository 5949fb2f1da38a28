"""What a run's warmup has finished so far, kept in a file: the same run goes on from there after it was interrupted.

All that warmup computes follows from the model, its arguments, the options and the random key. So the file holds what
each stage ended with, and within a training the state that its loop carries; a run that finds a stage in it takes it
from there. Nothing of it is code.
"""

import hashlib
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jaxlib.version import __version__ as jaxlib_version

from numpyro_onestep import archive
from numpyro_onestep.encoding import named, plain
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.target import values
from numpyro_onestep.state import OneStepState
from numpyro_onestep.training.evaluation import Evaluation, History
from numpyro_onestep.training.state import TrainState

__all__ = ["Journal", "open_journal"]

_KIND, _FORMAT = "training checkpoint", 4
_INTERVAL = 30.0  # seconds between two states of one training
_NUM_POINTS = 3  # at which log densities are compared
_T = TypeVar("_T")


class Journal:
    """The finished stages of one warmup, in memory and, with a `path`, in a file.

    Args:
        path: the file; None keeps nothing.
        run: what the results follow from, each with a digest or a value that tells it from others.

    Raises:
        ValueError: if the file cannot be read, holds another run, or is to be in a folder that does not exist.
    """

    def __init__(self, path: Path | None = None, run: dict[str, Any] | None = None):
        self._path, self._run = path, run or {}
        self._stages: dict[str, Any] = {}
        self._written = time.monotonic()
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"`checkpoint` is a file in {path.parent}, but there is no such folder.")
        if path is not None and path.exists():
            content = archive.read(path, _KIND, _FORMAT)
            other = [name for name, value in self._run.items() if not _same(value, content["run"].get(name))]
            if other:
                raise ValueError(
                    f"{path} holds the training of another run, with other {', '.join(other)}. Give another path for "
                    "`checkpoint`, or delete that file."
                )
            self._stages = content["stages"]

    def stage(self, name: str, kind: type[_T], compute: Callable[[], _T], as_array: Any = jnp.asarray) -> _T:
        """The named tuple that `compute` returns, or what it returned in the run before, its arrays `as_array`."""
        if self.has(name):
            return named(kind, self._stages[name], as_array)
        value = compute()
        self._record(name, plain(value))
        return value

    def has(self, name: str) -> bool:
        """Whether the stage `name` had begun."""
        return name in self._stages

    def resumed(self, name: str, untrained: TrainState) -> tuple[TrainState, History]:
        """The state that the training `name` had come to, and its evaluations; those of an untrained one at first."""
        if not self.has(name):
            history = History()
            history.add(untrained)
            return untrained, history
        saved = self._stages[name]
        state = jax.tree.unflatten(jax.tree.structure(untrained), map(jnp.asarray, saved["state"]))
        return state, History([Evaluation(*one) for one in saved["history"]])

    def keep(self, name: str, trained: TrainState, history: History, finished: bool = False) -> None:
        """Keep the state of the training `name`, if it is `finished` or some time has passed since the last one."""
        if self._path is not None and (finished or time.monotonic() - self._written > _INTERVAL):
            evaluations = [tuple(one) for one in history.evaluations]
            self._record(name, {"state": jax.tree.leaves(trained), "history": evaluations})

    def _record(self, name: str, value: Any) -> None:
        if self._path is None:
            return
        self._stages[name] = value
        archive.write(self._path, _KIND, _FORMAT, {"run": self._run, "stages": self._stages})
        self._written = time.monotonic()


def open_journal(
    path: str | Path | None,
    rng_key: Array,
    setup: ModelSetup,
    given: Any,
    options: dict[str, Any],
    before: OneStepState | None,
) -> Journal:
    """The journal of a run at `path`; one that keeps nothing where that is None.

    Args:
        path: the file.
        rng_key: key of the warmup.
        setup: what is known of the model.
        given: its positional and keyword arguments.
        options: all options that training depends on.
        before: the state that a warm start goes on from; None without one.
    """
    if path is None:
        return Journal()
    versions = f"numpyro-onestep {version('numpyro-onestep')}, jax {jax.__version__}, jaxlib {jaxlib_version}"
    steps = np.random.default_rng(0).normal(0, 0.1, (_NUM_POINTS, setup.start.shape[0]))
    points = jnp.asarray(np.asarray(setup.start) + steps, setup.start.dtype)
    run = {
        "versions": f"{versions}, {jax.default_backend()}, {setup.center.dtype}",
        "arguments": _digest(given),
        "options": repr(sorted(options.items())),
        "random key": _digest(rng_key),
        "starting point": _digest(setup.center),
        "model": np.asarray(values(setup.marginal(*given), points)),
        "flow to start from": _digest(before and jax.tree.leaves((before.base, before.train))),
    }
    return Journal(Path(path), run)


def _digest(tree: Any) -> str:
    """Of all arrays and plain values of a pytree, and of its structure; of other objects only their type."""
    leaves, structure = jax.tree.flatten(tree)
    digest = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = random.key_data(leaf)
        plain = leaf is None or isinstance(leaf, bool | int | float | complex | str | bytes)
        if isinstance(leaf, jax.Array | np.ndarray | np.generic) and leaf.dtype != object:
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(repr(leaf if plain else type(leaf)).encode())
    return digest.hexdigest()


def _same(now: Any, then: Any) -> bool:
    """Whether two values agree, log densities to their digits."""
    if not isinstance(now, np.ndarray) or not isinstance(then, np.ndarray):
        return type(now) is type(then) and now == then
    close = now.shape == then.shape and now.dtype == then.dtype
    return close and np.allclose(now, then, rtol=100 * np.finfo(now.dtype).eps, atol=1e-3, equal_nan=True)
