"""The kernel of a finished run, seeing the model as in that run."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from numpyro.infer import MCMC

from numpyro_onestep.kernel import OneStep
from numpyro_onestep.state import same_leaves, trained_flows

__all__ = ["kernel_of"]


def kernel_of(mcmc: MCMC, what: str) -> OneStep:
    """The trained kernel of `mcmc`, with its `setup` that of the last run; `what` needs it, for the error.

    One kernel may serve several runs, and NumPyro does not tell it of the arguments of a run that is resumed. A
    `OneStepSampler` keeps the setup of its last run; for a stock `MCMC` the model is looked at again.

    Raises:
        TypeError: if the kernel is not `OneStep`.
        ValueError: if nothing was trained.
        RuntimeError: if the model does something else now than in that run.
    """
    kernel = mcmc.sampler
    if not isinstance(kernel, OneStep):
        raise TypeError(f"{what} needs an MCMC with a OneStep kernel, not {type(kernel).__name__}.")
    state = mcmc.last_state if mcmc.last_state is not None else mcmc.post_warmup_state
    first = trained_flows(state)[0]
    own = getattr(mcmc, "setup", None)
    given: Any = getattr(mcmc, "_args", None), getattr(mcmc, "_kwargs", None)
    if given[0] is None:
        raise ValueError(f"{what} needs the model's arguments: call `run` first, which goes on from the state set.")
    if own is not None:
        kernel.recall(own)
    elif kernel.model is not None and (kernel.setup.idle is not None or not same_leaves(kernel.setup.given, given)):
        point = first.z if jnp.ndim(first.i) == 0 else jax.tree.map(lambda leaf: leaf[0], first.z)
        kernel.prepare(random.key(0), point, *given, fill_idle=False)
    kernel.setup.check_unchanged()
    return kernel
