"""`Evidence`: the log evidence, its error, and whether to believe it."""

from html import escape
from typing import NamedTuple

__all__ = ["Evidence"]


class Evidence(NamedTuple):
    """An estimate of the log evidence log Z = log ∫γ and what is known of its quality. All in nats but the counts.

    Attributes:
        log_z: log of the mean weight of fresh proposals, or of a bridge's particles; nan where the evidence is
            undefined.
        std_error: its standard error, with the spread between replicates, what larger weights than those seen and a
            heavy tail may add, and rounding.
        elbo: mean log weight of the proposals, the DF-ELBO, or of a bridge's clouds: a lower bound of log Z in
            expectation.
        eubo: the DF-EUBO, an upper bound of log Z in expectation, from posterior draws that do not come from the flow,
            or from the bridge's way back; nan where it was not estimated.
        ess: effective sample size, a count out of `num_proposals`: of the weights, or for a bridge the number of
            independent draws whose mean weight has the same relative error.
        pareto_k: shape of the weights' tail; trust below min(1 − 1/log10 N, .7), or where a note says that the
            tail holds next to nothing.
        fold_fraction: share of 1024 proposals where the map is not injective or its inverse does not return.
        num_proposals: number of fresh proposals.
        num_replicates: number of independently trained flows.
        reliable: whether every check passed.
        warnings: the checks that failed, in words, and notes on what the number means.
        num_evaluations: of the target for each proposal; 1 without a bridge or Hamiltonian steps.
        draws_reliable: whether every check passed that is about the draws: also True where the model has no evidence,
            as under improper priors, and nothing else is wrong.
    """

    log_z: float
    std_error: float
    elbo: float
    eubo: float
    ess: float
    pareto_k: float
    fold_fraction: float
    num_proposals: int
    num_replicates: int
    reliable: bool
    warnings: tuple[str, ...]
    num_evaluations: int = 1
    draws_reliable: bool = True

    def rows(self) -> list[tuple[str, str]]:
        """What `print` and a notebook show: names and values, the warnings last."""
        each = f"{self.num_evaluations} evaluation{'s' * (self.num_evaluations > 1)} each"
        share = 100 * self.ess / self.num_proposals
        return [
            ("log Z", f"{self.log_z:.3f} ± {self.std_error:.3f}"),
            ("bounds", f"{self.elbo:.3f} to {self.eubo:.3f}"),
            ("effective", f"{self.ess:.0f} of {self.num_proposals} proposals ({share:.1f} %), {each}"),
            ("Pareto k", f"{self.pareto_k:.2f}"),
            ("folds", f"{self.fold_fraction:.4f}"),
            ("flows", f"{self.num_replicates}"),
            ("reliable", _verdict(self.reliable, self.draws_reliable)),
            *(("" if i else "warnings", warning) for i, warning in enumerate(self.warnings)),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:11}{value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in self.rows())
        return f'<table style="text-align: left">{cells}</table>'


def _verdict(reliable: bool, draws_reliable: bool) -> str:
    return "yes" if reliable else "no, but the draws are" if draws_reliable else "no"
