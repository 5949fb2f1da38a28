"""Make docs/benchmarks.md and its figures from the rows that the other scripts wrote with `--json`.

    python examples/benchmarks/report.py rows.jsonl ablation.jsonl posteriordb.jsonl estimators.jsonl

Sections for which no rows are given stay as they are. So do the lines of the one-step, ablation and posteriordb tables
that were not measured anew, unless they have other columns.
"""

import argparse
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from problems import ABLATED, PROBLEMS
from rows import read

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEAD = """# Benchmarks

The tables of one evaluation a draw, ablation, posteriordb and determinants are made by `examples/benchmarks/report.py`
from the rows that the scripts beside it write with `--json`; each other section names the script that prints it. One
training for each row or group of rows. `seconds` are the whole warmup: base search, compilation, training, and the
audit if any. ESS, log Z, ELBO and k̂ are from 16,384 fresh draws (`median ESS` of ten such sets), folds and inverse
from 2,048, means from 10,000 corrected draws, modes from 163,840 weighted ones. What the columns mean is said by
`run.py --help`; where the reference for log Z has an error of its own, it stands behind the name. What each target is,
with its priors, is said in `problems.py`. Each section says which jaxlib it was measured with.
"""
ESTIMATORS = """`python examples/benchmarks/estimators.py` trains the paper's control on its own objectives (reverse KL
over paths of 64 steps and state consistency, 3000 iterations of 128 paths) and weighs its draws in three ways, at every
budget. With few steps the ELBO of the discrete kernels falls apart; a Hutchinson trace in place of the determinant is
biased at every finite step; the exact determinant is unbiased but for the draws at which the map folds. (At one and two
steps the collapse is also Euler's: the noise rate times the step is 10 and 5, far from stable.) `folds` counts draws
with a negative determinant in some step; there may be more. A banana, log Z = 0:"""
RECIPE = """The same control on benchmark problems, from the base Normal(0, 3) (`estimators.py NAME …`), weighed with
exact determinants. Where the map folds the mean weight is Z times the mean number of preimages, so that neither ELBO
nor log Z bounds or estimates anything; where it does not, the weights of 64 steps still are so unequal that their
standard error means little. `OneStep` on the same problems is in the first table of this page."""


POSTERIORDB = """`python examples/benchmarks/posteriordb.py`: twelve posteriors of the posteriordb database, default
settings with the audit, float32, seed 0. Means and standard deviations of 10,000 corrected draws against the
database's 10,000 reference draws, the worst over all parameters; a posterior agrees within .1 sd and 10 %. Where a
prior is improper log Z is undefined. `one_comp_mm_elim_abs` has two parameters with hardly a variance: in the
reference draws the ten chains' own standard deviations of one of them run from 4.2 to 11.1, so there the agreement of
standard deviations is partly luck."""
FULL = """`python examples/benchmarks/run.py`: trained in full (`target_ess=1.0`), else default settings, the audit
included, each training on one core, which some shared with other work. log Z, ESS and k̂ are those of one evaluation a
draw; `reliable` is said of `sampler.evidence`, which may come from a bridge."""
DEFAULT = """`python examples/benchmarks/run.py --target-ess 0.9`: as `OneStep` trains by default, the rest as above."""
REFINED = """From one training with `budgets=(2, 4, 8)` (`run.py NAME --no-audit --budgets 2 4 8`), evaluations a draw
in the columns. Seconds with one of two busy cores."""
CURVE = """From one training with `budgets=(2, 4, 8)` (`run.py NAME --no-audit --budgets 2 4 8 --curve`), evaluations a
draw in the columns. From 16 on it is the one-step map without corrections: each of its blocks in a step of its own, and
the identity in all other steps, but for heights of e^-14."""
ABLATION = """One part changed at a time, the same number of iterations each, without the audit;
`python examples/benchmarks/ablation.py`. The ordinary gradient is to be compared with the row without stretched base
draws. Only the wells are annealed, but for the variant without whitening, which is everywhere. The defaults ended at
92 to 96 % on the wells, by seed and machine: smaller differences there mean nothing."""


def number(value: float, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{digits}f}"


def section(title: str, about: str, parts: Iterable[str], rows: Iterable[dict[str, Any]], old: str = "") -> str:
    """Heading, text, tables and figures, and the versions of jaxlib behind the rows and the `old` lines kept."""
    before = old.rpartition("Measured with jaxlib ")[2].strip(" .\n").split(", ") if old else []
    versions = sorted({r["jaxlib"] for r in rows} | set(before))
    return "\n".join([f"## {title}\n\n{about}\n", *parts, f"Measured with jaxlib {', '.join(versions)}.\n"])


def table(header: list[str], rows: Iterable[list[str]], old: str = "", num_keys: int = 1, fill: bool = False) -> str:
    """A Markdown table, the first column left and the others right.

    A line of the `old` section stays, in its place, unless one of `rows` has the same first `num_keys` cells. With
    `fill` its cells then stand in for dashes of the new line.
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    if old:
        columns, _, *kept = [line.strip("| ").split(" | ") for line in old.splitlines() if line.startswith("| ")]
        lines = {tuple(line[:num_keys]): line for line in kept} if columns == header else {}
    for line in rows:
        key = tuple(line[:num_keys])
        before = lines.get(key, line) if fill else line
        lines[key] = [b if a == "–" else a for a, b in zip(line, before, strict=True)]
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines.values())) + "\n"


def one_step(title: str, rows: list[dict[str, Any]], old: str, about: str) -> str:
    """One evaluation a draw."""
    header = ["problem", "seed", "bits", "ESS", "median ESS", "log Z − truth", "± se"]
    header += ["ELBO − truth", "EUBO − truth", "k̂"]
    header += ["Sinkhorn", "folds", "folds ×1.5", "inverted", "worst mean, sd", "worst mode", "gradients, 1e6"]
    header += ["seconds", "reliable"]
    lines = []
    for r in sorted(rows, key=lambda r: (r["float64"], r["seed"])):
        error = f" (± {r['log_z_reference_error']})" if r["log_z_reference_error"] else ""
        line = [r["problem"] + error, str(r["seed"]), "64" if r["float64"] else "32", f"{100 * r['ess']:.1f} %"]
        line += [f"{100 * r['ess_median']:.1f} %"]
        line += [number(r[name]) for name in ("log_z_error", "std_error", "elbo_gap", "eubo_gap")]
        line += [number(r["pareto_k"], 2), number(r["sinkhorn"], 2), number(r["folds"]), number(r["folds_inflated"])]
        line += [number(r["inverted"]), number(r["mean_error_sd"], 3), number(r["mode_error"], 3)]
        lines.append([*line, number(r["gradients"], 2), number(r["seconds"], 0), "yes" if r["reliable"] else "no"])
    return section(title, about, [table(header, lines, old, 3)], rows, old)


def ladder(title: str, rows: list[dict[str, Any]], old: str, about: str, figure: str) -> str:
    """Every budget of one training."""
    budgets = sorted({r["nfe"] for r in rows})
    groups: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for r in rows:
        groups.setdefault((r["problem"], r["seed"]), {})[r["nfe"]] = r
    parts = []
    for what, field, digits, scale in (("ELBO − truth", "elbo_gap", 4, 1), ("ESS, %", "ess", 1, 100)):
        lines = []
        for (name, seed), group in groups.items():
            cells = [number(scale * group[n][field], digits) if n in group else "–" for n in budgets]
            lines.append([name, str(seed), *cells, number(next(iter(group.values()))["seconds"], 0)])
        parts.append(table([f"{what}: problem", "seed", *map(str, budgets), "seconds"], lines))
    draw_ladder(rows, DOCS / "figures" / figure)
    picture = f"![ELBO and ESS against the budget](figures/{figure})\n"
    return section(title, about, [*parts, picture], rows)


def draw_ladder(rows: list[dict[str, Any]], path: Path) -> None:
    """ESS and the ELBO's distance from log Z against the budget, one line a training."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for r in rows:
        groups.setdefault((r["problem"], r["seed"]), []).append(r)
    names = list(dict.fromkeys(name for name, _ in groups))
    legend_seed = {name: min(seed for n, seed in groups if n == name) for name in names}  # one entry a problem
    styles = ["-", "--"]
    for (name, seed), group in groups.items():
        i, steps = names.index(name), [r["nfe"] for r in group]
        line = {"marker": ".", "linestyle": styles[i // 10], "color": f"C{i % 10}"}
        if seed == legend_seed[name]:
            line["label"] = name
        axes[0].plot(steps, [r["elbo_gap"] for r in group], **line)
        axes[1].plot(steps, [100 * r["ess"] for r in group], **line)
    for axis, title in zip(axes, ("DF-ELBO − log Z, nats", "ESS, %"), strict=True):
        budgets = sorted({r["nfe"] for r in rows})
        axis.set(xscale="log", xlabel="evaluations a draw", title=title)
        axis.set_xticks(budgets, [str(n) for n in budgets])
        axis.minorticks_off()
    axes[1].legend(fontsize="x-small", handlelength=4, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def ablation(title: str, rows: list[dict[str, Any]], old: str) -> str:
    """One part changed at a time."""
    if others := {r["problem"] for r in rows} - set(ABLATED):
        raise SystemExit(f"rows of an ablation must be of {', '.join(ABLATED)}, not {', '.join(others)}")
    if len({r["iterations"] for r in rows}) > 1:
        raise SystemExit("rows of an ablation must be of the same number of iterations")
    header = ["variant", "seed"]
    header += [f"{p}: {what}" for p in ABLATED for what in ("ESS, %", "ELBO − truth", "k̂", "folds ×1.5")]
    shown = (("ess", 1, 100), ("elbo_gap", 3, 1), ("pareto_k", 2, 1), ("folds_inflated", 4, 1))
    cells: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for r in rows:
        label = r["about"] + (f", at {r['nfe']}" if r["budgets"] else "")
        cells.setdefault((label, r["seed"]), {})[r["problem"]] = r
    lines = []
    for (about, seed), by_problem in cells.items():
        line = [about, str(seed)]
        for problem in ABLATED:
            for field, digits, scale in shown:
                value = by_problem[problem][field] if problem in by_problem else math.nan
                line.append(number(scale * value, digits))
        lines.append(line)
    return section(title, ABLATION, [table(header, lines, old, 2, fill=True)], rows, old)


def reference_draws(title: str, rows: list[dict[str, Any]], old: str) -> str:
    """Posteriors with reference draws."""
    header = [
        "posterior",
        "dim",
        "worst mean, sd",
        "worst sd, %",
        "ESS, %",
        "k̂",
        "log Z",
        "± se",
        "EUBO − ELBO",
        "verdict",
    ]
    shown = (("mean_error_sd", 3), ("sd_error_percent", 1), ("ess_percent", 1), ("pareto_k", 2), ("log_z", 3))
    shown += (("std_error", 4), ("eubo_gap", 4))
    lines = [[r["posterior"], str(r["dim"]), *(number(r[k], n) for k, n in shown), r["verdict"]] for r in rows]
    return section(title, POSTERIORDB, [table(header, lines, old)], rows, old)


def estimators(title: str, rows: list[dict[str, Any]], old: str) -> str:
    """Three estimators of the same draws, and the best of them on other problems."""
    rows = list({(r["estimators"], r["seed"], r["nfe"]): r for r in rows}.values())
    names = {"path": "discrete kernels", "trace": "trace", "exact": "exact"}
    header = ["seed", "evaluations"]
    header += [f"{label}: {what}" for label in names.values() for what in ("ELBO", "log Z", "± se")] + ["folds"]
    lines = []
    others = []
    for r in rows:
        if r["estimators"] == "banana":
            numbers = [number(r[f"{name}_{what}"], 3) for name in names for what in ("elbo", "log_z", "se")]
            lines.append([str(r["seed"]), str(r["nfe"]), *numbers, number(r["folds"], 3)])
        elif r["nfe"] in (1, 8, 64):
            numbers = [number(r[what], 3) for what in ("path_elbo", "exact_elbo", "exact_log_z", "exact_se")]
            ess = number(100 * r["exact_ess"], 1)
            others.append([r["estimators"], str(r["seed"]), str(r["nfe"]), *numbers, ess, number(r["folds"], 3)])
    picture = "![ELBO and log Z of three estimators against the budget](figures/estimators.png)\n"
    columns = ["problem", "seed", "evaluations", "discrete kernels: ELBO", "exact: ELBO", "log Z", "± se", "ESS, %"]
    parts = [table(header, lines), picture, RECIPE + "\n", table([*columns, "folds"], others)]
    return section(title, ESTIMATORS, parts, rows)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    rows = [row for file in options.files for row in read(file)]
    references = [r for r in rows if "posterior" in r]
    estimated = [r for r in rows if "estimators" in r]
    rows = sorted((r for r in rows if "problem" in r), key=lambda row: list(PROBLEMS).index(row["problem"]))
    ablated = [r for r in rows if "variant" in r]
    plain = [r for r in rows if "variant" not in r]
    curve = [r for r in plain if r["curve"]]
    up_to_finest = [r for r in plain if r["budgets"] and not r["audit"] and r["nfe"] in (1, *r["budgets"])]
    refined = list({(r["problem"], r["seed"], r["float64"], r["nfe"]): r for r in up_to_finest}.values())
    single = [r for r in plain if r["audit"] and not r["budgets"]]
    path = DOCS / "benchmarks.md"
    old = {part.split("\n")[0]: "## " + part for part in path.read_text().split("\n## ")[1:]} if path.exists() else {}
    full, early = ([r for r in single if (r.get("target_ess", 1.0) < 1) == is_early] for is_early in (False, True))
    makers: dict[str, tuple[list[dict[str, Any]], Callable[[str, list[dict[str, Any]], str], str]]] = {
        "One evaluation a draw": (full, partial(one_step, about=FULL)),
        "One evaluation a draw, by default": (early, partial(one_step, about=DEFAULT)),
        "Budgets": (refined, partial(ladder, about=REFINED, figure="budgets.png")),
        "From 1 to 128 evaluations": (curve, partial(ladder, about=CURVE, figure="curve.png")),
        "Ablation": (ablated, ablation),
        "posteriordb": (references, reference_draws),
        "Why the determinant must be exact": (estimated, estimators),
    }
    page = [HEAD]
    for title in sorted({**old, **makers}, key=partial(_place, list(old), list(makers))):
        given, make = makers.get(title, ([], None))
        if make and given:
            page.append(make(title, given, old.get(title, "")))
        elif title in old:
            page.append(old[title].rstrip("\n") + "\n")
    path.write_text("\n".join(page))


def _place(old: list[str], makers: list[str], title: str) -> tuple[int, int]:
    """Where a section stands: where it stood, or else after that which is made before it."""
    if title in old:
        return old.index(title), 0
    before = [name for name in makers[: makers.index(title)] if name in old]
    return (old.index(before[-1]) if before else -1), 1 + makers.index(title)


if __name__ == "__main__":
    main()
