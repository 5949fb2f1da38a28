"""Models side by side by their evidence."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from numpyro_onestep.evidence import Evidence
from numpyro_onestep.sampler import OneStepSampler

__all__ = ["compare"]


def compare(models: Mapping[str, OneStepSampler | Evidence]) -> Any:
    """Rank models of the same data by their log evidence, with equal prior probabilities.

    Args:
        models: name → sampler after `run`, or its `Evidence`.

    Returns:
        A pandas DataFrame, best model first, with columns `log_z`, `std_error` (nats), `log_bayes_factor` of the best
        model over this one and its standard error `log_bayes_factor_se`, `bayes_factor`, `probability` (posterior
        model probability), `reliable` and `warnings`. Where an evidence is undefined these are nan and its model takes
        no part in the probabilities.

    Raises:
        ValueError: if no model is given, or two of them saw different data.
        TypeError: if a value is neither a sampler nor an `Evidence`.
    """
    import pandas as pd

    if not models:
        raise ValueError("compare() needs at least one model.")
    _check_same_data(models)
    results = {name: _evidence_of(name, model) for name, model in models.items()}
    table = pd.DataFrame.from_dict(
        {name: {"log_z": e.log_z, "std_error": e.std_error} for name, e in results.items()}, orient="index"
    ).sort_values("log_z", ascending=False, na_position="last")
    best = table.iloc[0]
    factor = best["log_z"] - table["log_z"]
    error = np.hypot(best["std_error"], table["std_error"])
    error[table.index == table.index[0]] = 0.0
    weights = np.exp(-factor)
    table["log_bayes_factor"], table["log_bayes_factor_se"] = factor, error
    table["bayes_factor"] = np.exp(factor)
    table["probability"] = weights / weights.sum()
    table["reliable"] = [results[name].reliable for name in table.index]
    table["warnings"] = ["; ".join(results[name].warnings) for name in table.index]
    return table


def _check_same_data(models: Mapping[str, Any]) -> None:
    """The observed values of all models whose data are known must be the same, in whatever sites and order."""
    first: tuple[str, np.ndarray] | None = None
    for name, model in models.items():
        observed = model._observed if isinstance(model, OneStepSampler) else None
        if observed is None:
            continue
        if first is None:
            first = name, observed
        elif not np.array_equal(observed, first[1], equal_nan=True):
            raise ValueError(
                f"Models '{first[0]}' and '{name}' have different observed data ({first[1].size} and {observed.size} "
                "values): their evidences cannot be ranked. Condition both on the same values, on the same scale."
            )


def _evidence_of(name: str, model: Any) -> Evidence:
    if isinstance(model, Evidence):
        return model
    if isinstance(model, OneStepSampler):
        return model.evidence
    raise TypeError(f"compare() takes OneStepSampler or Evidence values; '{name}' is a {type(model).__name__}.")
