"""Make the tables of docs/benchmarks.md from the rows that `run.py --json` wrote.

python examples/benchmarks/report.py rows.jsonl > docs/benchmarks.md
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Made by `examples/benchmarks/report.py` from the rows of `examples/benchmarks/run.py --json rows.jsonl`: default
settings, one training a row or group of rows, on two CPU cores. What the columns mean is said by `run.py --help`.
References: closed forms and quadrature where no error is given, else the error stands behind the name.
"""


def number(value: float, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left and the others right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows)) + "\n"


def one_step(rows: list[dict[str, Any]]) -> str:
    """One evaluation a draw."""
    header = ["problem", "seed", "bits", "ESS", "log Z − truth", "± se", "ELBO − truth", "EUBO − truth", "k̂"]
    header += ["Sinkhorn", "folds", "inverted", "worst mean, sd", "worst mode", "gradients, 1e6", "reliable"]
    lines = []
    for r in rows:
        error = f" (± {r['log_z_reference_error']})" if r["log_z_reference_error"] else ""
        line = [r["problem"] + error, str(r["seed"]), "64" if r["float64"] else "32", f"{100 * r['ess']:.1f} %"]
        line += [number(r[name]) for name in ("log_z_error", "std_error", "elbo_gap", "eubo_gap")]
        line += [number(r["pareto_k"], 2), number(r["sinkhorn"], 2), number(r["folds"]), number(r["inverted"])]
        line += [number(r["mean_error_sd"], 3), number(r["mode_error"], 3), number(r["gradients"], 2)]
        lines.append([*line, "yes" if r["reliable"] else "no"])
    return "## One evaluation a draw\n\n" + table(header, lines)


def ladder(rows: list[dict[str, Any]]) -> str:
    """Every budget of one training."""
    budgets = sorted({r["nfe"] for r in rows})
    header = ["problem", "seed", *[f"ELBO at {n}" for n in budgets], *[f"ESS at {n}" for n in budgets]]
    groups: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for r in rows:
        groups.setdefault((r["problem"], r["seed"]), {})[r["nfe"]] = r
    lines = []
    for (name, seed), group in groups.items():
        elbos = [number(group[n]["elbo_gap"]) if n in group else "–" for n in budgets]
        esses = [f"{100 * group[n]['ess']:.1f} %" if n in group else "–" for n in budgets]
        lines.append([name, str(seed), *elbos, *esses])
    return "## Budgets\n\nELBO − truth and ESS with more evaluations a draw, from one training.\n\n" + table(
        header, lines
    )


def main() -> None:
    """Print the page."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(HEAD)
    print(one_step([r for r in rows if not r["budgets"]]))
    refined = [r for r in rows if r["budgets"]]
    if refined:
        print(ladder(refined))


if __name__ == "__main__":
    main()
