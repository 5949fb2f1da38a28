"""Models side by side by their evidence."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jax import random
from numpyro.infer import MCMC

from numpyro_onestep.kernel import OneStep
from numpyro_onestep.results.inference_data import evidence_in, observed_in
from numpyro_onestep.run import evidence, run_of
from numpyro_onestep.trust.evidence import Evidence, with_digits, with_error

__all__ = ["compare", "evidence_of"]

_WIDTH = 80  # of a terminal: pandas would leave out the columns that matter, and write "…" for them


def compare(models: Mapping[str, Any], prior: Mapping[str, float] | None = None) -> Any:
    """Rank models of the same data by their log evidence.

    Args:
        models: name → `OneStepSampler` or stock `MCMC` with a `OneStep` kernel after `run`, an `Evidence`, or the ArviZ
            data of `to_inference_data`.
        prior: name → prior probability of each model, up to a common factor; equal by default.

    Returns:
        A pandas DataFrame, highest log evidence first, with columns `log_z`, `std_error` (nats), `log_bayes_factor` of
        the first model over this one (nats) and its standard error `log_bayes_factor_se`, `log10_bayes_factor`,
        `bayes_factor`, `prior`, `probability` (posterior model probability), `reliable` and `warnings`. Where an
        evidence is undefined these are nan and its model takes no part in the probabilities. Printed, it shows the
        columns that decide, within 80 characters, and the warnings below; `table.to_string()` shows all columns.

    Raises:
        ValueError: if no model is given, two of them saw different data, or `prior` does not fit the models.
        TypeError: if a value is none of the above.
    """
    import pandas as pd

    if not isinstance(models, Mapping):
        raise TypeError(f"compare() takes a dict of models by name, not a {type(models).__name__}.")
    if not models:
        raise ValueError("compare() needs at least one model.")
    prior = dict.fromkeys(models, 1.0) if prior is None else dict(prior)
    if set(prior) != set(models) or not all(np.isfinite(p) and p > 0 for p in prior.values()):
        raise ValueError(f"`prior` needs one positive number for each of {', '.join(models)}, not {prior}.")
    notes = _check_same_data(models)
    results = {name: evidence_of(name, model) for name, model in models.items()}
    table = pd.DataFrame.from_dict(
        {name: {"log_z": e.log_z, "std_error": e.std_error} for name, e in results.items()}, orient="index"
    ).sort_values("log_z", ascending=False, na_position="last")
    best = table.iloc[0]
    factor = best["log_z"] - table["log_z"]
    error = np.hypot(best["std_error"], table["std_error"])
    error[table.index == table.index[0]] = 0.0
    before = np.array([prior[name] for name in table.index]) / sum(prior.values())
    weights = before * np.exp(-factor)
    table["log_bayes_factor"], table["log_bayes_factor_se"] = factor, error
    table["log10_bayes_factor"] = factor / np.log(10)
    table["bayes_factor"] = np.exp(factor)
    table["prior"] = before
    table["probability"] = weights / weights.sum()
    table["reliable"] = [results[name].reliable for name in table.index]
    table["warnings"] = ["; ".join((*results[name].warnings, *notes[name])) for name in table.index]
    return _table_class()(table)


@cache
def _table_class() -> type:
    """A pandas DataFrame with a text of its own; made when it is first needed, since importing pandas takes long."""
    import pandas as pd

    class Comparison(pd.DataFrame):
        """What `compare` returns; whatever pandas makes of it is a plain DataFrame."""

        @property
        def _constructor(self) -> Any:
            return pd.DataFrame

        def __reduce_ex__(self, protocol: Any) -> Any:
            return pd.DataFrame, (pd.DataFrame(self),)

        def __repr__(self) -> str:
            return _text(self)

    return Comparison


def _text(table: Any) -> str:
    """The columns that decide, and the warnings, no line longer than 80 characters and nothing cut off."""
    head = ("log_z ± se", "log10_bayes_factor", "probability", "reliable")
    rows = [
        (
            with_error(row["log_z"], row["std_error"]),
            with_digits(row["log10_bayes_factor"], 2),
            f"{row['probability']:.4f}",
        )
        for _, row in table.iterrows()
    ]
    rows = [(*row, str(reliable)) for row, reliable in zip(rows, table["reliable"], strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = _WIDTH - sum(widths) - 2 * len(widths)
    names = [textwrap.wrap(str(name), room) or [""] for name in table.index]
    lines = ["".join(["model".ljust(max(5, *(len(part) for name in names for part in name))), *_cells(head, widths)])]
    for name, row in zip(names, rows, strict=True):
        first, *others = name
        lines += [first.ljust(len(lines[0]) - sum(widths) - 2 * len(widths)) + "".join(_cells(row, widths)), *others]
    for name, warnings in table["warnings"].items():
        lines += textwrap.wrap(f"{name}: {warnings}", _WIDTH, subsequent_indent="  ") if warnings else []
    return "\n".join(lines)


def _cells(values: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"  {value:>{width}}" for value, width in zip(values, widths, strict=True)]


def _is_run(model: Any) -> bool:
    return isinstance(model, MCMC) and isinstance(model.sampler, OneStep)


def _is_arviz(model: Any) -> bool:
    return hasattr(model, "posterior") or (hasattr(model, "children") and "posterior" in model.children)


def _observed_of(model: Any) -> np.ndarray | None:
    """All observed values, site after site; None where they are not known."""
    if _is_run(model):
        setup = getattr(model, "setup", None) or run_of(model, "compare()").setup
        return setup.observed
    return observed_in(model) if _is_arviz(model) else None


def _check_same_data(models: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The observed values of all models whose data are known must be the same, in whatever sites and order.

    Returns:
        Notes on each model whose data are not known, or come in another order than those of the first.
    """
    first: tuple[str, np.ndarray] | None = None
    notes: dict[str, tuple[str, ...]] = dict.fromkeys(models, ())
    for name, model in models.items():
        observed = _observed_of(model)
        if observed is None:
            if len(models) > 1:
                notes[name] = ("note: its observed data are not known here, so not compared with the others'.",)
            continue
        if first is None:
            first = name, observed
        elif observed.shape != first[1].shape or not _same(np.sort(observed), np.sort(first[1])):
            raise ValueError(
                f"Models '{first[0]}' and '{name}' have different observed data ({first[1].size} and {observed.size} "
                "values): their evidences cannot be ranked. Condition both on the same values, on the same scale."
            )
        elif not _same(observed, first[1]):
            notes[name] = (
                f"note: its observed values have another order than in '{first[0]}'; their rows must match.",
            )
    return notes


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, value by value, but for rounding to single precision."""
    return np.allclose(a, b, rtol=1e-6, atol=1e-12 * np.nanmax(np.abs(a), initial=0.0), equal_nan=True)


def evidence_of(name: str, model: Any) -> Evidence:
    """The evidence of a run, of ArviZ data, or given as it is; TypeError, with the `name`, for anything else."""
    if isinstance(model, Evidence):
        return model
    if _is_run(model):  # a `OneStepSampler` keeps its evidence
        return model.evidence if hasattr(type(model), "evidence") else evidence(model, random.key(0))
    if _is_arviz(model):
        return evidence_in(name, model)
    raise TypeError(
        "compare() takes runs of a OneStep kernel, Evidence values and the ArviZ data of `to_inference_data`; "
        f"'{name}' is a {type(model).__name__}."
    )
