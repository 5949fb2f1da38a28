"""A picture of each model of the gallery, from draws of OneStep with its defaults, for docs/gallery.md.

python examples/gallery/figures.py                     # all of them: a quarter of an hour on one core
python examples/gallery/figures.py funnel mixture      # some
python examples/gallery/figures.py mixture --smoke     # seconds, for tests: numbers are not meaningful
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from agreement import FULL, SMOKE, run_onestep
from hierarchical import AT_BATS
from jax import random
from models import GALLERY
from numpyro import handlers
from numpyro.infer import Predictive

sys.path.append(str(Path(__file__).resolve().parents[1]))
from pictures import save

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "figures"
Draws = dict[str, np.ndarray]
BAND = (0.05, 0.5, 0.95)


def intervals(ax: Any, x: np.ndarray, draws: np.ndarray, **options: Any) -> None:
    """Medians and intervals of 90 % of draws (N, D) at D places."""
    low, middle, high = np.quantile(draws, BAND, axis=0)
    ax.errorbar(x, middle, (middle - low, high - middle), **{"fmt": "o", "ms": 3, "lw": 1, **options})


def band(ax: Any, x: np.ndarray, draws: np.ndarray, color: str = "C0") -> None:
    """The same as a line within a band."""
    low, middle, high = np.quantile(draws, BAND, axis=0)
    ax.plot(x, middle, color=color)
    ax.fill_between(x, low, high, color=color, alpha=0.25, lw=0)


def baseball(ax: Any, draws: Draws, hits: np.ndarray) -> None:
    """Averages of the season's start, and what is behind them."""
    intervals(ax, hits / AT_BATS + 0.002 * np.arange(len(hits)) % 0.006, draws["average"])
    ax.plot([0.15, 0.4], [0.15, 0.4], color="gray", lw=0.8)
    ax.set(xlabel="hits / 45", ylabel="true average")


def neural_network(ax: Any, draws: Draws, x: np.ndarray, y: np.ndarray) -> None:
    """The curve that the network fits."""
    at = np.linspace(-2, 2, 60)
    slope, shift, output = (draws[name][::10] for name in ("slope", "shift", "output"))
    band(ax, at, np.einsum("nxh,nh->nx", np.tanh(at[:, None] * slope[:, None] + shift[:, None]), output))
    ax.plot(x, y, "k.", ms=4)
    ax.set(xlabel="x", ylabel="y")


def logistic(ax: Any, draws: Draws, *_: np.ndarray) -> None:
    """The coefficients."""
    intervals(ax, np.arange(draws["beta"].shape[1]), draws["beta"])
    ax.axhline(0, color="gray", lw=0.8)
    ax.set(xlabel="feature", ylabel="coefficient")


def funnel(ax: Any, draws: Draws) -> None:
    """The neck and the wide part."""
    ax.plot(draws["x"][:, 0], draws["y"], ".", ms=2, alpha=0.5)
    ax.set(xlabel="x[0]", ylabel="y", xlim=(-30, 30))


def gaussian_process(ax: Any, draws: Draws, x: np.ndarray, y: np.ndarray) -> None:
    """The function given the data, one draw of it for each of the hyperparameters."""
    rng, at = np.random.default_rng(0), np.linspace(-1, 1, 80)
    paths = []
    for i in range(0, len(draws["log_length"]), 20):
        variance, length, noise = (np.exp(draws[name][i]) for name in ("log_variance", "log_length", "log_noise"))

        def cov(a: np.ndarray, b: np.ndarray, variance: float = variance, length: float = length) -> np.ndarray:
            return variance * np.exp(-0.5 * ((a[:, None] - b) / length) ** 2)

        gain = np.linalg.solve(cov(x, x) + (noise + 1e-6) * np.eye(len(x)), cov(x, at)).T
        left = cov(at, at) - gain @ cov(x, at) + 1e-6 * np.eye(len(at))
        paths.append(rng.multivariate_normal(gain @ y, left, method="eigh"))
    band(ax, at, np.stack(paths))
    ax.plot(x, y, "k.", ms=4)
    ax.set(xlabel="x", ylabel="y")


def horseshoe(ax: Any, draws: Draws, *_: np.ndarray) -> None:
    """The coefficients, and the true ones."""
    intervals(ax, np.arange(15), draws["beta"])
    ax.plot(np.arange(15), [2, -1, 0.5, *np.zeros(12)], "k_", ms=9, label="true")
    ax.set(xlabel="feature", ylabel="coefficient")
    ax.legend(frameon=False)


def hidden_markov(ax: Any, draws: Draws, y: np.ndarray) -> None:
    """The two levels and the data."""
    time = np.arange(len(y))
    for state in (0, 1):
        band(ax, time, np.repeat(draws["level"][:, state, None], len(y), 1), f"C{state}")
    ax.plot(time, y, "k.-", ms=3, lw=0.5)
    ax.set(xlabel="time", ylabel="y and both levels")


def covariance(ax: Any, draws: Draws, y: np.ndarray) -> None:
    """Correlations against those of the sample."""
    sample = np.corrcoef(y.T)[np.tril_indices(y.shape[1], -1)]
    intervals(ax, sample, draws["correlation"])
    ax.plot([-1, 1], [-1, 1], color="gray", lw=0.8)
    ax.set(xlabel="correlation in the sample", ylabel="posterior")


def predator_prey(ax: Any, draws: Draws, pelts: np.ndarray) -> None:
    """Pelts as they were and as they might be again."""
    model = handlers.uncondition(GALLERY["predator prey"].model)
    parameters = {name: draws[name][::10] for name in ("start", "rate", "error")}
    again = np.asarray(Predictive(model, parameters)(random.key(0), pelts)["pelts"])
    for i, name in enumerate(("hares", "lynxes")):
        band(ax, np.arange(1900, 1921), again[:, :, i], f"C{i}")
        ax.plot(np.arange(1900, 1921), pelts[:, i], ".", ms=5, color=f"C{i}", label=name)
    ax.set(ylabel="pelts, thousands", ylim=(0, 120), xticks=[1900, 1910, 1920])
    ax.legend(frameon=False)


def stochastic_volatility(ax: Any, draws: Draws, y: np.ndarray) -> None:
    """The scale of each day, and the returns' sizes."""
    band(ax, np.arange(len(y)), np.exp(draws["log_scale"]))
    ax.plot(np.arange(len(y)), np.abs(y), "k.", ms=4)
    ax.set(xlabel="day", ylabel="|return| and its scale", yscale="log", ylim=(0.02, None))


def admissions(ax: Any, draws: Draws, *_: np.ndarray) -> None:
    """The effect of being male on the logit of admission, by department."""
    intervals(ax, np.arange(6), draws["effect"][:, :, 1])
    ax.axhline(0, color="gray", lw=0.8)
    ax.set(ylabel="effect of being male", xticks=np.arange(6), xticklabels="ABCDEF", xlabel="department")


def mixture(ax: Any, draws: Draws, *_: np.ndarray) -> None:
    """Both modes: either center may be the lower one."""
    ax.plot(*draws["center"].T, ".", ms=2, alpha=0.5)
    ax.set(xlabel="center[0]", ylabel="center[1]", aspect="equal")


PICTURES: dict[str, Callable[..., None]] = {
    draw.__name__.replace("_", " "): draw
    for draw in (
        *(baseball, neural_network, logistic, funnel, gaussian_process, horseshoe, hidden_markov, covariance),
        *(predator_prey, stochastic_volatility, admissions, mixture),
    )
}


def main() -> None:
    """Run the models named, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(GALLERY)}; all by default")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--smoke", action="store_true", help="a few iterations only")
    options = parser.parse_args()
    plt.rcParams.update({"font.size": 8})
    for name in options.models or PICTURES:
        entry = GALLERY[name]
        _, sampler, seconds = run_onestep(entry, 0, SMOKE if options.smoke else FULL)
        figure, ax = plt.subplots(figsize=(3.4, 2.7), layout="constrained")
        PICTURES[name](ax, {site: np.asarray(x) for site, x in sampler.get_samples().items()}, *entry.args)
        if not sampler.evidence.reliable:
            ax.set_title("refused: not reliable")
        save(figure, options.folder / f"gallery_{name.replace(' ', '_')}.png", num_colors=32)
        plt.close(figure)
        print(f"{name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
