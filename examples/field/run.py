"""Models in the manner of people's reports, each with NUTS and with OneStep, and exact answers where there are any.

    python examples/field/run.py                            # all models, seed 0: an hour on two CPU cores
    python examples/field/run.py "change point" --seed 1
    python examples/field/run.py --json rows.jsonl          # resumable: keeps the rows that are there
    python examples/field/run.py --json rows.jsonl --markdown

Columns and verdicts are those of `examples/gallery/run.py`.
"""

import sys
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).parents[1] / folder) for folder in ("gallery", "benchmarks")]

from cases import FIELD  # noqa: E402
from table import run  # noqa: E402

if __name__ == "__main__":
    run(FIELD, __doc__)
