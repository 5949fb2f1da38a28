"""Pictures of evidence, in a light and a dark style."""

import numpy as np
import pytest

from numpyro_onestep import Evidence, compare, plot_compare, plot_evidence

GOOD = Evidence(-35.3, 0.02, -35.4, -35.2, 4000.0, 0.1, 0.0, 4096, 1, True, ())


def doubtful(evidence):
    return evidence._replace(log_z=evidence.log_z - 1, std_error=0.3, eubo=np.nan, elbo=-np.inf, reliable=False)


def test_plot_evidence(ink, finished):
    ax = finished(plot_evidence(GOOD))
    assert ax.get_title() == "log evidence -35.300 ± 0.020"
    assert list(ax.lines[0].get_xdata()) == [-35.4, -35.2]
    undefined = GOOD._replace(log_z=np.nan, std_error=np.nan)
    models = {"ours": GOOD, "a name of many words that is broken": undefined, "doubtful": doubtful(GOOD)}
    ax = finished(plot_evidence(models))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0].startswith("ours\n")
    assert names[1] == "a name of many words\nthat is broken\nundefined"
    assert names[2] == "doubtful\n-36.30 ± 0.30 (not reliable)"
    assert [text.get_text() for text in ax.texts] == ["undefined"]


def test_plot_compare(ink, finished):
    undefined = GOOD._replace(log_z=np.nan, std_error=np.nan)
    table = compare({"doubtful": doubtful(GOOD), "ours": GOOD, "undefined": undefined})
    left, right = plot_compare(table)
    names = [label.get_text() for label in finished(left).get_yticklabels()]
    assert names == ["ours", "doubtful\n(not reliable)", "undefined"]
    assert [bar.get_width() for bar in right.patches] == pytest.approx(list(table["probability"][:2]))
    assert left.get_xlabel().endswith("ours over each")


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="at least one"):
        plot_evidence({})
    with pytest.raises(TypeError, match="'evidence' is a float"):
        plot_evidence(1.0)
    with pytest.raises(TypeError, match="the table of `compare`"):
        plot_compare({"a": 1})
