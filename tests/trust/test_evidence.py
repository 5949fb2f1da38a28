import subprocess
import sys

import numpy as np

import numpyro_onestep
from numpyro_onestep import Evidence

GOOD = Evidence(-31.3113, 0.002, -31.32, -31.3, 3890.0, 0.23, 0.0, 4096, 1, True, ())


def test_evidence_is_a_tuple_and_prints_as_a_table():
    assert GOOD[0] == GOOD.log_z == -31.3113
    lines = str(GOOD).splitlines()
    assert lines[0] == "log Z      -31.311 ± 0.002"
    assert "3890 of 4096 proposals (95.0 %), 1 evaluation each" in lines[2]
    assert lines[-1].split() == ["reliable", "yes"]


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


def test_versions_and_devices_for_a_report():
    command = [sys.executable, "-m", "numpyro_onestep"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"numpyro-onestep {numpyro_onestep.__version__}, Python")
    for part in ("numpyro ", "jaxlib ", "devices "):
        assert part in shown
