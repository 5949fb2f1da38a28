import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_onestep.base.distribution import whiten
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_eight_schools_smoke(tmp_path):
    picture = tmp_path / "picture.png"
    command = [sys.executable, EXAMPLES / "eight_schools.py", "--smoke", "--picture", picture]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    for expected in ("theta[7]", "log evidence", "exact -31.3113", "Pareto k", "no pooling"):
        assert expected in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_tables_keep_the_lines_that_were_not_measured_anew(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    from report import table

    header = ["problem", "seed", "ESS"]
    first = table(header, [["funnel", "0", "99"], ["funnel", "1", "98"], ["wells", "0", "95"]], "", 2)
    assert first.count("\n") == 5
    again = table(header, [["funnel", "1", "97"], ["ring", "0", "90"]], f"## Title\n\n{first}\nMeasured", 2)
    assert again == first.replace("98", "97") + "| ring | 0 | 90 |\n"
    assert table(header, [["wells", "0", "–"], ["ring", "0", "–"]], first, 2, fill=True) == first + "| ring | 0 | – |\n"


@pytest.mark.slow
def test_radiata_pine():
    result = subprocess.run([sys.executable, EXAMPLES / "radiata_pine.py"], capture_output=True, text=True, check=True)
    assert "log Bayes factor 8.42368" in result.stdout  # in closed form
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(("adjusted density", "density"))]
    first, second = (row[-7:] for row in rows)  # from log_bayes_factor on
    assert first[0] == "0.0000"
    assert abs(float(second[0]) - 8.42368) < 3 * float(second[1]) + 1e-3
    assert first[-1] == second[-1] == "True"


@pytest.mark.slow
def test_gallery_smoke(tmp_path):
    command = [sys.executable, EXAMPLES / "gallery" / "run.py", "mixture", "--smoke", "--json", tmp_path / "rows.jsonl"]
    subprocess.run(command, check=True)
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["model"] == "mixture"
    assert row["verdict"] in ("agrees", "flagged", "WRONG")
    assert np.all(np.isfinite([row["log_z"], row["mean_error_sd"], row["sd_error_percent"]]))


def verdicts_of(script, folder):
    rows = folder / "rows.jsonl"
    subprocess.run([sys.executable, EXAMPLES / script, "--json", rows], check=True)
    return [json.loads(line)["verdict"] for line in rows.read_text().splitlines()]


@pytest.mark.slow
def test_gallery(tmp_path):
    verdicts = verdicts_of("gallery/run.py", tmp_path)
    assert len(verdicts) == 12
    assert verdicts.count("agrees") >= 10
    assert "WRONG" not in verdicts


@pytest.mark.slow
def test_field(tmp_path):
    verdicts = verdicts_of("field/run.py", tmp_path)
    assert len(verdicts) == 28
    assert verdicts.count("agrees") >= 22
    assert verdicts.count("WRONG") <= 2  # two necks; tests/test_field.py has one of them as a known failure


@pytest.mark.slow
@pytest.mark.skipif("ONESTEP_DATA" not in os.environ, reason="the reference draws are not part of the project")
def test_posteriordb(tmp_path):
    verdicts = verdicts_of("benchmarks/posteriordb.py", tmp_path)
    assert len(verdicts) == 12
    assert verdicts.count("agrees") >= 11
    assert "WRONG" not in verdicts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "hierarchical", "counts"])
def test_a_warm_start_needs_a_third_of_the_iterations(name, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    from warm_start import measure

    row = next(measure(name, 0))  # one row of the data is new
    assert row["from_nothing"] >= 3 * row["warm"]
    assert row["ess"] > 97


ABLATED = {  # problem → variants that must differ from one another there
    "funnel": "default ordinary_gradient no_stretch no_cap affine no_whitening no_bumps no_tanh no_ridges free_signs",
    "double_wells_32": "default no_annealing",
    "breast_cancer": "default dense_scales one_state one_volume refined state volume distilled one_wave",
}


@pytest.mark.slow
@pytest.mark.parametrize("problem", ABLATED)
def test_what_an_ablation_replaces_is_what_runs(problem, tmp_path):
    # the compiled programs of the variant before it must not stand in for it
    variants, rows = ABLATED[problem].split(), tmp_path / "rows.jsonl"
    command = [sys.executable, EXAMPLES / "benchmarks" / "ablation.py", problem, "--variants", *variants]
    subprocess.run([*command, "--iterations", "20", "--json", rows], check=True)
    elbos = {}
    for row in map(json.loads, rows.read_text().splitlines()):
        elbos.setdefault(row["variant"], []).append((row["elbo_gap"], row["elbo_last"]))
    assert list(elbos) == variants
    assert len(set(map(tuple, elbos.values()))) == len(variants)


def test_the_barrier_counts_where_a_free_sign_can_fold(monkeypatch):
    # at the start of a training, which is all that the test above sees, no eigenvalue is that small
    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    import ablation

    variant = ablation.VARIANTS["barrier"]
    barrier = variant.kernel(lambda: None).plan(3).stages[0].losses[1]
    problem = Problem(whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 3)), jnp.eye(3)[None])), lambda z: jnp.zeros(()))
    network = StepNetwork(3, num_blocks=1, width=8, rng_key=jax.random.key(0))
    with ablation.changed(variant):
        assert barrier(network, network, problem, jax.random.key(1), jnp.ones(())) == 0
        network = StepNetwork.from_arrays(network.arrays() | {"ridge": jnp.full((1, 8), -3.0)})
        assert barrier(network, network, problem, jax.random.key(1), jnp.ones(())) > 1


@pytest.mark.slow
def test_estimators_smoke(tmp_path):
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, EXAMPLES / "benchmarks" / "estimators.py", "--iterations", "2"]
    figure = tmp_path / "figure.png"
    subprocess.run([*command, "banana", "funnel", "--json", rows, "--figure", figure], check=True)
    written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["estimators"] for row in written] == ["banana"] * 7 + ["funnel"] * 7
    assert all(np.isfinite(row["exact_elbo"]) for row in written)
    assert figure.read_bytes().startswith(b"\x89PNG")


# name → smallest share of effective draws, largest error of log Z, seconds of training on two CPU cores
REQUIRED = {
    "eight_schools": (0.96, 0.02, 75),
    "breast_cancer": (0.95, 0.02, 60),
    "conjugate_regression": (0.95, 0.02, 60),
    "gaussian_100": (0.95, 0.02, 60),
    "funnel": (0.92, 0.03, 75),
    "double_wells_4": (0.99, 0.03, 75),
    "double_wells_32": (0.88, 0.03, 75),
    "double_wells_32_rotated": (0.60, 0.03, 90),
    "mixture_8": (0.97, 0.02, 60),
    "mixture_40": (0.97, 0.02, 60),
    "seeds": (0.80, 0.05, 90),
    "breast_cancer_wide": (0.80, 0.05, 90),
    "brownian": (0.60, 0.05, 90),
    "german_credit": (0.97, 0.05, 90),
    "ionosphere": (0.93, 0.05, 90),
    "sonar": (0.88, 0.05, 90),
}
NEED_DATA = {"german_credit", "ionosphere", "sonar"}
FLAGGED = {"brownian"}  # some of its mass is hardly in the flow's reach: it says so, or its error bar does


def skip_without_data(name):
    if name in NEED_DATA and "ONESTEP_DATA" not in os.environ:
        pytest.skip("its data are not part of the project")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--x64",)], ids=["float32", "float64"])
@pytest.mark.parametrize("name", REQUIRED)
def test_benchmark(name, flags, tmp_path):
    skip_without_data(name)
    ess, error, seconds = REQUIRED[name]
    command = [
        sys.executable,
        EXAMPLES / "benchmarks" / "run.py",
        name,
        "--json",
        tmp_path / "row.json",
        "--nuts",
        *flags,
    ]
    subprocess.run(command, check=True)
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["ess_median"] >= ess
    assert abs(row["log_z_error"]) <= error
    assert row["elbo_gap"] <= 3 * row["std_error"] + 1e-3
    assert row["folds"] == 0
    assert row["folds_inflated"] == 0
    assert row["inverted"] >= 0.999
    assert row["inverted_inflated"] >= 0.999
    assert row["gradients"] <= 10
    assert row["mean_error_sd"] <= 0.1
    if name.startswith("mixture"):
        assert row["mode_error"] <= 0.2
    if name in FLAGGED:
        assert not row["reliable"] or abs(row["log_z_error"]) <= 3 * row["std_error"]
    else:
        assert row["reliable"]
    if not flags:
        assert row["seconds"] <= seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools", "funnel", "double_wells_32", "mixture_8", "brownian", "ionosphere"])
def test_finer_budgets_lose_nothing(name, tmp_path):
    skip_without_data(name)
    command = [sys.executable, EXAMPLES / "benchmarks" / "run.py", name, "--no-audit", "--budgets", "2", "4", "8"]
    subprocess.run([*command, "--json", tmp_path / "rows.json"], check=True)
    one, *finer = map(json.loads, (tmp_path / "rows.json").read_text().splitlines())
    assert one["ess_median"] >= REQUIRED[name][0]
    assert [row["nfe"] for row in finer] == [2, 4, 8]
    for row in finer:
        assert row["elbo_gap"] >= one["elbo_gap"] - 0.01
        assert row["folds"] == row["folds_inflated"] == 0
        assert row["seconds"] <= 3 * 90
    if name == "funnel":
        assert finer[-1]["ess"] >= 0.97
