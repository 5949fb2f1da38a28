"""How a training went: the evaluations on held-out draws."""

from typing import Any

import numpy as np

from numpyro_onestep.plots.axes import FAINT, axes_of, ink
from numpyro_onestep.run import run_of
from numpyro_onestep.training.evaluation import stops_of

__all__ = ["plot_training"]

_DEPTH = 10.0  # nats below the last ELBO that are shown


def plot_training(sampler: Any, over: str = "iterations", ax: Any = None) -> Any:
    """DF-ELBO and effective sample size on held-out draws in the course of training, and why it stopped.

    The first point is the base itself. Several flows have a line each. Evaluations more than 10 nats below the last one
    are drawn as triangles at the lower edge.

    Args:
        sampler: a `OneStepSampler` after `run` or `warmup`.
        over: "iterations" or "seconds", the horizontal axis; seconds include compilation.
        ax: two matplotlib axes; new ones by default.

    Returns:
        An array of the two axes.

    Raises:
        ValueError: if nothing was trained, the evaluations are not known (a loaded sampler, a flow that was trained
            elsewhere, a stock `MCMC`), or an argument is wrong.
        TypeError: if it is no `MCMC` around `OneStep`.
    """
    if over not in ("iterations", "seconds"):
        raise ValueError(f"`over` must be 'iterations' or 'seconds', not {over!r}.")
    run = run_of(sampler, "plot_training()")
    trained: Any = run.state.train
    history = getattr(sampler, "history", None)
    if history is None or not history.is_of(trained):
        raise ValueError(
            "plot_training() needs the evaluations of the training, which only the OneStepSampler that trained the "
            "flow has: files of `save` do not hold them, `post_warmup_state` does not bring them, and a stock MCMC "
            "keeps none. Train again to see them."
        )
    seen = history.evaluations
    x = [getattr(one, over.replace("iterations", "iteration")) for one in seen]
    elbo, ess = np.array([one.elbo for one in seen]), 100 * np.array([one.ess_fraction for one in seen])
    axes = left, right = axes_of(ax, 2, (9.0, 3.8), sharex=True)
    log_z = float(np.mean(trained.best_log_z))
    last = elbo[-1][np.isfinite(elbo[-1])]
    floor = np.min(last, initial=log_z) - _DEPTH
    for flow in range(elbo.shape[1]):
        low, color = elbo[:, flow] < floor, f"C{flow}"
        (line,) = left.plot(x, np.where(low, floor, elbo[:, flow]), "-", color=color)
        left.plot(np.array(x)[~low], elbo[~low, flow], "o", color=color)
        left.plot(np.array(x)[low], np.full(np.sum(low), floor), "v", color=color)
        right.plot(x, ess[:, flow], "o-", color=color)
    line.set_label("DF-ELBO" if elbo.shape[1] == 1 else "DF-ELBO of each flow")
    if np.isfinite(log_z):
        left.axhline(log_z, color=ink(), label="log mean weight of the best", **FAINT)
    plan = run.kernel.plan(run.setup.dim, run.setup.work)
    if plan.in_rounds:
        right.axhline(100 * plan.target_ess, color=ink(), label="target_ess", **FAINT)
        right.legend(frameon=False)
    left.margins(y=0.1)
    if over == "iterations":
        left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    left.set(xlabel=over, ylabel="nats")
    left.ticklabel_format(axis="y", useOffset=False)
    right.set(xlabel=over, ylabel="effective draws (%)", ylim=(0, 104))
    done, total = int(np.max(trained.iteration)), int(np.max(trained.num_iterations))
    left.set_title(f"{done} of {total} iterations, {seen[-1].seconds:.0f} s", fontsize="medium")
    right.set_title("stopped: " + ", ".join(stops_of(trained)), fontsize="medium")
    return axes
