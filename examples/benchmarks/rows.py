"""Measured rows in a file of JSON lines, so that a run can be resumed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def read(path: Path | None) -> list[dict[str, Any]]:
    """The rows that the file holds; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []


def append(path: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to the file, if one is given."""
    if path:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def fill(
    path: Path | None,
    targets: Iterable[str],
    seed: int,
    measure: Callable[[str], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Measure and show the targets of which the file has no row of this seed, and show that of the others."""
    known = {(row["target"], row["seed"]): row for row in read(path)}
    for name in targets:
        row = known.get((name, seed))
        if row is None:
            row = measure(name)
            append(path, [row])
        show(row)
