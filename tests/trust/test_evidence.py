import subprocess
import sys

import numpy as np

import numpyro_onestep
from numpyro_onestep import Evidence

GOOD = Evidence(-31.3113, 0.002, -31.32, -31.3, 3890.0, 0.23, 0.0, 4096, 1, True, ())


def test_evidence_is_a_tuple_and_prints_as_a_table():
    assert GOOD[0] == GOOD.log_z == -31.3113
    lines = str(GOOD).splitlines()
    assert lines[0] == "log evidence  -31.3113 ± 0.0020"
    assert lines[1] == "bounds        -31.3200 to -31.3000, in expectation"
    assert "3890 of 4096 proposals (95.0 %), 1 evaluation each" in lines[2]
    assert lines[-1].split() == ["reliable", "yes"]
    assert repr(GOOD).startswith("Evidence(log_z=-31.3113, std_error=0.002,")


def test_doubts_are_printed_and_escaped():
    doubtful = GOOD._replace(
        log_z=np.nan, reliable=False, num_evaluations=28, warnings=("a < b & c", "note: d"), draws_reliable=True
    )
    text = str(doubtful)
    assert "28 evaluations each" in text
    assert "no, but the draws are" in text
    assert text.splitlines()[-2].split(maxsplit=1) == ["warnings", "a < b & c"]
    assert "<td>a &lt; b &amp; c</td>" in doubtful._repr_html_()
    assert "no" in str(doubtful._replace(draws_reliable=False)).splitlines()[6].split()
    assert text.splitlines()[-1].split() == ["notes", "d"]
    assert text.splitlines()[0].split() == ["log", "evidence", "undefined"]
    assert "\nbounds        undefined\n" in str(doubtful)
    assert "no upper bound" in str(doubtful._replace(log_z=-31.31, eubo=np.nan))
    assert "-inf (constant weights)" in str(doubtful._replace(pareto_k=-np.inf))


def test_long_warnings_are_broken_at_the_terminals_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "The effective sample size is 12 of 4096 proposals: the flow does not fit the target."
    lines = str(GOOD._replace(reliable=False, draws_reliable=False, warnings=(long, "short"))).splitlines()
    assert max(map(len, lines)) <= 60
    assert all(line.startswith(" " * 14) for line in lines if not line[0].isalpha())
    start = next(i for i, line in enumerate(lines) if line.startswith("warnings"))
    assert start < len(lines) - 2
    assert " ".join(" ".join(lines[start:]).split()) == f"warnings {long} short"


def test_a_notebook_shows_the_same_in_the_colours_of_its_theme():
    for evidence, colour in ((GOOD, "#2e9e5b"), (GOOD._replace(reliable=False, draws_reliable=False), "#d9622b")):
        shown = evidence._repr_html_()
        assert all(f"<th>{name}</th>" in shown and value in shown for name, value in evidence.rows())
        assert shown.count("color") == 1
        assert f'<span style="color: {colour}">●</span>' in shown


def test_two_lines_say_the_estimate_and_whether_to_believe_it():
    assert GOOD.summary().splitlines() == [
        "log evidence: -31.3113 ± 0.0020, ESS 3890 of 4096, Pareto k 0.23, evaluations 1",
        "reliable: yes",
    ]
    noted = GOOD._replace(warnings=("note: a", "note: b")).summary().splitlines()
    assert noted[1] == "reliable: yes (2 notes: print the evidence)"
    doubtful = GOOD._replace(reliable=False, draws_reliable=False, warnings=("First.", "second", "note: third"))
    assert doubtful.summary().splitlines()[1] == "reliable: no. First. (1 more warning and 1 note: print the evidence)"
    undefined = doubtful._replace(log_z=np.nan, std_error=np.nan, draws_reliable=True, warnings=("It is undefined.",))
    lines = undefined.summary().splitlines()
    assert lines[0].startswith("log evidence: undefined, ESS 3890")
    assert lines[1] == "reliable: no, but the draws are. It is undefined."


def test_versions_and_devices_for_a_report():
    command = [sys.executable, "-m", "numpyro_onestep"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"numpyro-onestep {numpyro_onestep.__version__}, Python")
    for part in ("numpyro ", "jaxlib ", "devices "):
        assert part in shown
