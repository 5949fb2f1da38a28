"""`Evidence`: the log evidence, its error, and whether to believe it."""

import math
import shutil
import textwrap
from html import escape
from typing import NamedTuple

__all__ = ["Evidence", "with_digits", "with_error"]

_NOTE = "note: "  # how those of the warnings begin that speak against nothing
_SURE, _DOUBTFUL = "#2e9e5b", "#d9622b"  # of the marker in a notebook; they can be seen on white and on black
_STYLE = """<style>
table.onestep-evidence th, table.onestep-evidence td { text-align: left; vertical-align: top; white-space: nowrap }
table.onestep-evidence td { white-space: normal; max-width: 50em }
</style>"""  # stronger than the notebook's own


class Evidence(NamedTuple):
    """An estimate of the log evidence log Z = log ∫γ and what is known of its quality. All in nats but the counts.

    Attributes:
        log_z: log of the mean weight of fresh proposals, or of a bridge's particles, or the mean of both; nan where the
            evidence is undefined.
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

    @property
    def failures(self) -> tuple[str, ...]:
        """Those of the warnings that are checks that failed."""
        return tuple(warning for warning in self.warnings if not warning.startswith(_NOTE))

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the warnings that are notes and speak against nothing."""
        return tuple(warning.removeprefix(_NOTE) for warning in self.warnings if warning.startswith(_NOTE))

    def summary(self) -> str:
        """Two lines: the estimate and what it rests on; whether to believe it, and the first check that failed."""
        weights = f"ESS {self.ess:.0f} of {self.num_proposals}, Pareto k {self.pareto_k:.2f}"
        estimate = f"{with_error(self.log_z, self.std_error)}, {weights}, evaluations {self.num_evaluations}"
        verdict = ". ".join([_verdict(self.reliable, self.draws_reliable), *self.failures[:1]])
        more = _count(len(self.failures) - 1, "more warning"), _count(len(self.notes), "note")
        further = f" ({' and '.join(filter(None, more))}: print the evidence)" if any(more) else ""
        return f"log evidence: {estimate}\nreliable: {verdict}{further}"

    def rows(self) -> list[tuple[str, str]]:
        """What `print` and a notebook show: names and values, warnings and notes last."""
        digits = _digits(self.std_error)
        upper = "or more, no upper bound" if math.isnan(self.eubo) else f"to {with_digits(self.eubo, digits)}"
        bounds = f"{with_digits(self.elbo, digits)} {upper}, in expectation"
        share = 100 * self.ess / self.num_proposals
        each = f"{_count(self.num_evaluations, 'evaluation')} each"
        texts = {"warnings": self.failures, "notes": self.notes}
        return [
            ("log evidence", with_error(self.log_z, self.std_error)),
            ("bounds", "undefined" if math.isnan(self.log_z) else bounds),
            ("ESS", f"{self.ess:.0f} of {self.num_proposals} proposals ({share:.1f} %), {each}"),
            ("Pareto k", f"{self.pareto_k:.2f}{' (constant weights)' * (self.pareto_k == -math.inf)}"),
            ("folds", f"{self.fold_fraction:.4f}"),
            ("flows", f"{self.num_replicates}"),
            ("reliable", _verdict(self.reliable, self.draws_reliable)),
            *(("" if i else name, text) for name, each in texts.items() for i, text in enumerate(each)),
        ]

    def __str__(self) -> str:
        width = max(40, shutil.get_terminal_size().columns)
        indent = " " * 14
        return "\n".join(
            textwrap.fill(value, width, initial_indent=f"{name:14}", subsequent_indent=indent, break_on_hyphens=False)
            for name, value in self.rows()
        )

    def _repr_html_(self) -> str:
        colour = _SURE if self.reliable else _DOUBTFUL
        marker = {"reliable": f'<span style="color: {colour}">●</span> '}
        cells = "".join(
            f"<tr><th>{name}</th><td>{marker.get(name, '')}{escape(value)}</td></tr>" for name, value in self.rows()
        )
        return f'{_STYLE}<table class="onestep-evidence">{cells}</table>'


def with_error(value: float, error: float) -> str:
    """The value with as many digits as its error lets count, that with two, between 1 and 6 of them."""
    digits = _digits(error)
    return "undefined" if math.isnan(value) else f"{with_digits(value, digits)} ± {with_digits(error, digits)}"


def with_digits(value: float, digits: int) -> str:
    """So many digits after the point, or four in all where the value is huge."""
    return f"{value:.{digits}f}" if abs(value) < 1e9 else f"{value:.4g}"


def _digits(error: float) -> int:
    return min(max(1 - math.floor(math.log10(error)), 1), 6) if math.isfinite(error) and error > 0 else 4


def _count(number: int, what: str) -> str:
    """Such as "2 notes", and nothing for none of them."""
    return f"{number} {what}{'s' * (number > 1)}" if number > 0 else ""


def _verdict(reliable: bool, draws_reliable: bool) -> str:
    return "yes" if reliable else "no, but the draws are" if draws_reliable else "no"
