"""The table of models, each with NUTS and with OneStep."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from agreement import FULL, SMOKE, compare
from entry import Entry

__all__ = ["run"]

COLUMNS = {"dim": 5, "mean_error_sd": 15, "sd_error_percent": 18, "ess_percent": 13, "evaluations": 13, "pareto_k": 10}
COLUMNS |= {"log_z": 11, "std_error": 11, "bulk_ess": 10, "nuts_seconds": 14, "seconds": 9, "reliable": 10}
COLUMNS |= {"verdict": 9}  # and their widths
HEADER = (
    "| model | D | mean error, sd | sd error | ESS | evaluations | k̂ | log Z ± se | off | bulk ESS | NUTS s | ours s | "
)
HEADER += "NUTS says | verdict |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|"


def show(row: dict[str, Any]) -> None:
    """One line of the table, and below it what either sampler says of itself."""
    cells = [f"{row[c]:{w}.3f}" if isinstance(row[c], float) else f"{row[c]!s:>{w}}" for c, w in COLUMNS.items()]
    print(f"{row['model']:22}" + "".join(cells), flush=True)
    if row["nuts_trouble"]:
        print(f"{'':24}NUTS: {row['nuts_trouble']}")
    for warning in row["warnings"]:
        if not warning.startswith("note:"):
            print(f"{'':24}OneStep: {warning}")


def markdown(row: dict[str, Any]) -> str:
    """The row as one line of a table in Markdown."""
    off = "" if math.isnan(row["log_z_error"]) else f"{row['log_z_error']:+.3f}"
    seconds = "–" if math.isnan(row["nuts_seconds"]) else f"{row['nuts_seconds']:.0f}"
    cells = [row["model"], row["dim"], f"{row['mean_error_sd']:.3f}", f"{row['sd_error_percent']:.1f} %"]
    cells += [f"{row['ess_percent']:.1f} %", row["evaluations"], f"{row['pareto_k']:.2f}"]
    cells += [f"{row['log_z']:.3f} ± {row['std_error']:.3f}", off, f"{row['bulk_ess']:.0f}", seconds]
    cells += [f"{row['seconds']:.0f}", row["nuts_trouble"] or "–", row["verdict"]]
    return "| " + " | ".join(map(str, cells)) + " |"


def run(entries: dict[str, Entry], description: str | None) -> None:
    """The command line: compare the models that it names, and print."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(entries)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it already holds")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--smoke", action="store_true", help="a few iterations only")
    options = parser.parse_args()
    for name in options.models:
        if name not in entries:
            parser.error(f"no model {name!r}: there are {', '.join(entries)}")
    path = options.json
    known = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []

    print(
        HEADER if options.markdown else f"{'model':22}" + "".join(f"{c:>{w}}" for c, w in COLUMNS.items()), flush=True
    )
    verdicts = []
    for name in options.models or entries:
        key = {"model": name, "seed": options.seed, "smoke": options.smoke}
        row = next((row for row in known if row.items() >= key.items()), None)
        if row is None:
            row = key | compare(entries[name], options.seed, SMOKE if options.smoke else FULL)
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(markdown(row), flush=True) if options.markdown else show(row)
        verdicts.append(row["verdict"])
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("agrees", "flagged", "WRONG"))
    print("\n" * options.markdown + f"{len(verdicts)} models: {counts}")
