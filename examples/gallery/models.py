"""The gallery: each model with its data, and what of it is compared."""

import hierarchical
import mixtures
import regressions
import time_series
from entry import Entry

__all__ = ["GALLERY"]


GALLERY: dict[str, Entry] = {
    "baseball": Entry(hierarchical.baseball, (hierarchical.HITS,), ("mean", "log_concentration", "average")),
    "neural network": Entry(regressions.neural_network, regressions.curve(), ("prediction", "precision")),
    "logistic": Entry(regressions.logistic, regressions.labelled_features(), ("beta",)),
    "funnel": Entry(hierarchical.funnel, (), ("y", "log_abs_x"), no_data=True),
    "gaussian process": Entry(
        regressions.gaussian_process, regressions.wave(), ("log_variance", "log_length", "log_noise")
    ),
    "horseshoe": Entry(regressions.horseshoe, regressions.sparse_features(), ("beta", "log_global_scale", "precision")),
    "hidden markov": Entry(time_series.hidden_markov, (time_series.regimes(),), ("transition", "level", "noise")),
    "covariance": Entry(hierarchical.covariance, (hierarchical.correlated_data(),), ("mean", "scale", "correlation")),
    "predator prey": Entry(time_series.predator_prey, (time_series.HARE_LYNX,), ("start", "rate", "error")),
    "stochastic volatility": Entry(
        time_series.stochastic_volatility, (time_series.returns(),), ("step", "log_scale", "df")
    ),
    "admissions": Entry(
        hierarchical.admissions, (hierarchical.ADMISSIONS,), ("center", "scale", "correlation", "effect")
    ),
    "mixture": Entry(mixtures.mixture, (mixtures.two_groups(),), ("ordered_center", "ordered_share", "scale")),
}
