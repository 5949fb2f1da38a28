"""Twelve models in the manner of NumPyro's examples, each with NUTS and with OneStep: only the kernel differs.

    python examples/gallery/run.py                        # all models, seed 0: about half an hour on two CPU cores
    python examples/gallery/run.py funnel "hidden markov" --seed 1
    python examples/gallery/run.py --json rows.jsonl      # resumable: keeps the rows that are there
    python examples/gallery/run.py funnel --smoke         # seconds, for tests: numbers are not meaningful

Columns: dimension; largest error of a mean in reference standard deviations; largest error of a standard deviation in
per cent; effective share of fresh proposals in per cent, at one network evaluation each; Pareto k; log Z and its error;
seconds of NUTS and of OneStep for warmup and 4 x 1000 draws, compilation included; `reliable`; and the verdict. It is
"agrees" where no mean is off by more than .15 sd and no sd by more than 15 %, else "flagged" if the run is not
reliable, else "WRONG". The reference is a longer run of NUTS, and for the funnel exact draws. Below a line stands what
is wrong with NUTS (divergences, an R-hat above 1.05, fewer than 1000 effective draws), and what OneStep warns of.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from agreement import FULL, SMOKE, compare
from models import GALLERY

COLUMNS = {"dim": 5, "mean_error_sd": 15, "sd_error_percent": 18, "ess_percent": 13, "pareto_k": 10, "log_z": 11}
COLUMNS |= {"std_error": 11, "nuts_seconds": 14, "seconds": 9, "reliable": 10, "verdict": 9}  # and their widths


def show(row: dict[str, Any]) -> None:
    """One line of the table, and below it what either sampler says of itself."""
    cells = [f"{row[c]:{w}.3f}" if isinstance(row[c], float) else f"{row[c]!s:>{w}}" for c, w in COLUMNS.items()]
    print(f"{row['model']:22}" + "".join(cells), flush=True)
    if row["nuts_trouble"]:
        print(f"{'':24}NUTS: {row['nuts_trouble']}")
    for warning in row["warnings"]:
        if not warning.startswith("note:"):
            print(f"{'':24}OneStep: {warning}")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(GALLERY)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it already holds")
    parser.add_argument("--smoke", action="store_true", help="a few iterations only")
    options = parser.parse_args()
    for name in options.models:
        if name not in GALLERY:
            parser.error(f"no model {name!r}: there are {', '.join(GALLERY)}")
    path = options.json
    known = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []

    print(f"{'model':22}" + "".join(f"{c:>{w}}" for c, w in COLUMNS.items()), flush=True)
    verdicts = []
    for name in options.models or GALLERY:
        key = {"model": name, "seed": options.seed, "smoke": options.smoke}
        row = next((row for row in known if row.items() >= key.items()), None)
        if row is None:
            row = key | compare(GALLERY[name], options.seed, SMOKE if options.smoke else FULL)
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        show(row)
        verdicts.append(row["verdict"])
    print(f"{len(verdicts)} models: " + ", ".join(f"{verdicts.count(v)} {v}" for v in ("agrees", "flagged", "WRONG")))


if __name__ == "__main__":
    main()
