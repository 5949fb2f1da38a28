import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.draws import weights

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("log_weights", "ess"),
    [
        ([0.0, 0.0, 0.0, 0.0], 4.0),
        ([5.0, -INF, -INF], 1.0),
        ([math.log(2.0), 0.0, 0.0], 16 / 6),
        ([math.log(2.0) + 300, 300.0, NAN, 300.0], 16 / 6),
        ([-INF, -INF], 0.0),
        ([NAN, NAN], 0.0),
    ],
)
def test_effective_sample_size(log_weights, ess):
    assert float(weights.effective_sample_size(jnp.array(log_weights))) == pytest.approx(ess, rel=1e-3)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_log_mean_weight(shift):
    w = np.array([1.0, 2.0, 0.0, 5.0, 0.0])
    with np.errstate(divide="ignore"):
        log_w = np.log(w) + shift
    log_w[-1] = NAN
    log_z, std_error = weights.log_mean_weight(log_w)
    assert log_z == pytest.approx(math.log(1.6) + shift, abs=1e-9)
    assert std_error == pytest.approx(w.std(ddof=1) / 1.6 / math.sqrt(5), rel=1e-9)


def test_log_mean_weight_sums_float32_input_in_float64():
    # in float32 a sum stops growing at 2^24 terms' worth: the small weights would be lost
    log_w = np.full(100_001, math.log(1e-8), np.float32)
    log_w[0] = 0.0
    assert weights.log_mean_weight(log_w)[0] == pytest.approx(math.log((1 + 1e-3) / 100_001), abs=1e-6)


@pytest.mark.parametrize(
    ("log_w", "expected"), [([-INF, -INF], -INF), ([NAN, NAN], -INF), ([0.0, INF], INF), ([2.0], 2.0)]
)
def test_log_mean_weight_without_an_error(log_w, expected):
    assert weights.log_mean_weight(np.array(log_w)) == (expected, INF)
    if not math.isfinite(expected):
        assert weights.pareto_k(np.array(log_w)) == INF


def test_standard_error_covers_log_z(getkey):
    # w = exp(sx - s²/2) with x standard normal has mean 1
    s, num = 0.7, 500
    log_w = s * np.asarray(random.normal(getkey(), (400, num))) - s**2 / 2
    estimates = np.array([weights.log_mean_weight(row) for row in log_w])
    assert np.std(estimates[:, 0]) == pytest.approx(np.mean(estimates[:, 1]), rel=5 / math.sqrt(2 * 400))
    assert abs(np.mean(estimates[:, 0])) < 5 * np.std(estimates[:, 0]) / math.sqrt(400) + np.var(estimates[:, 0])


def test_pareto_k_of_a_heavy_tailed_target():
    x = np.random.default_rng(0).normal(size=20_000)
    k = weights.pareto_k(-2 * np.log1p(x**2 / 3) + x**2 / 2)
    assert k == pytest.approx(0.69, abs=0.15)


def test_pareto_k_of_a_light_tailed_target():
    x = np.random.default_rng(0).normal(size=20_000)
    with_zeros = np.append(-0.5 * x**2, [-INF, NAN])
    assert weights.pareto_k(with_zeros) < 0.2
    assert weights.pareto_k(0.5 * x**2) > 0.7


def test_pareto_k_of_constant_weights():
    assert weights.pareto_k(np.full(1000, 123.0) + 1e-6 * np.arange(1000) / 1000) == -INF


def test_pareto_k_threshold():
    assert weights.pareto_k_threshold(4096) == pytest.approx(0.7)
    assert weights.pareto_k_threshold(100) == pytest.approx(0.5)


def test_resample_frequencies(getkey):
    log_weights = jnp.array([0.0, jnp.log(3.0), -INF, NAN, jnp.log(6.0)]) + 1e3
    num = 20_000
    picked = np.asarray(weights.resample(getkey(), log_weights, num))
    assert picked.shape == (num,)
    expected = np.array([0.1, 0.3, 0.0, 0.0, 0.6])
    gap = np.abs(np.bincount(picked, minlength=5) / num - expected)
    assert np.all(gap <= 5 * np.sqrt(expected * (1 - expected) / num))


@pytest.mark.parametrize(("k", "least", "widest"), [(0.2, 0.92, 1.1), (0.4, 0.92, 1.5), (0.7, 0.88, 5.0)])
def test_the_error_of_a_heavy_tailed_mean_covers_it(k, least, widest):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        log_w = np.log(1 + 0.1 * (rng.uniform(size=4096) ** -k - 1) / k)
        log_z, std_error = weights.log_mean_weight(log_w)
        unseen = weights.unseen_error(log_w, weights.pareto_k(log_w))
        rows.append((abs(log_z - math.log(1 + 0.1 / (1 - k))), std_error, math.hypot(std_error, unseen)))
    error, usual, whole = np.array(rows).T
    covered, covered_before, wider = np.mean(error <= 2 * whole), np.mean(error <= 2 * usual), np.median(whole / usual)
    print(f"k {k}: within two errors {covered:.2f}, without the unseen {covered_before:.2f}; {wider:.2f} times as wide")
    assert covered >= least
    assert wider <= widest
    if k == 0.7:  # what it is for
        assert covered_before < 0.8


def test_nothing_is_unseen_of_constant_weights():
    log_w = np.full(1000, 123.0) + 1e-6 * np.arange(1000) / 1000
    assert weights.unseen_error(log_w, weights.pareto_k(log_w)) == 0
    assert weights.unseen_error(np.full(100, -INF), INF) == INF
    assert weights.unseen_error(np.zeros(100), 0.5) == 0


def test_tail_error_tells_a_heavy_tail_from_a_negligible_one():
    u = (np.arange(4096) + 0.5) / 4096
    heavy = -0.9 * np.log(1 - u)  # Pareto weights with shape .9
    assert weights.tail_error(heavy, 0.9) > 1
    light = np.where(np.arange(4096) < 4090, 0.0, 0.7 * np.log(2))  # six weights a little above the others
    assert weights.tail_error(light, 0.9) < 0.02
    assert weights.tail_error(light, 2.0) < 0.06
    assert weights.tail_error(np.full(100, -INF), 0.9) == INF
