"""A result belongs to the run that it is asked of: its model, data and flow, whatever happened to the kernel since."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY, skewed
from numpyro.infer import MCMC

from numpyro_onestep import FlowDistribution, OneStep, OneStepSampler, compare, compilation, evidence
from numpyro_onestep import sampler as sampler_

COUNTS = {"num_warmup": 20, "num_samples": 50, "progress_bar": False}
KNOWN = {"shift": 0.0}


def normal(y=None):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=KNOWN["shift"] if y is None else y)


def normal_log_z(y):
    return -0.5 * np.log(4 * np.pi) - y**2 / 4


def test_a_variable_that_changed_after_the_run_is_not_mixed_in(monkeypatch):
    sampler = OneStepSampler(OneStep(normal, **TINY, bridge="never"), **COUNTS)
    sampler.run(random.key(0))
    stock = MCMC(OneStep(normal, **TINY, bridge="never"), **COUNTS)
    stock.run(random.key(0))
    monkeypatch.setitem(KNOWN, "shift", 3.0)
    for asked in (
        lambda: sampler.evidence,
        lambda: sampler.draw(random.key(1), 5),
        lambda: FlowDistribution(sampler),
        lambda: evidence(stock, random.key(1)),
    ):
        with pytest.raises(RuntimeError, match="has changed since"):
            asked()
    sampler.post_warmup_state = sampler.last_state
    sampler.run(random.key(0))
    assert abs(sampler.evidence.log_z - normal_log_z(3.0)) < 0.3  # by the flow for 0
    monkeypatch.undo()
    sampler.run(random.key(0))
    assert abs(sampler.evidence.log_z - normal_log_z(0.0)) < 0.01


def test_runs_that_share_a_kernel_keep_their_data_apart():
    kernel = OneStep(normal, **TINY)
    runs = {}
    for y in (0.0, 3.0):
        for kind in (MCMC, OneStepSampler):
            runs[kind, y] = kind(kernel, **COUNTS)
            runs[kind, y].run(random.key(0), y)
    for (kind, y), run in runs.items():
        assert abs(evidence(run, random.key(1)).log_z - normal_log_z(y)) < 0.01
        compare({"a": run, "b": runs[kind, y]})
        with pytest.raises(ValueError, match="different observed data"):
            compare({"a": run, "b": runs[kind, 3.0 - y]})


@pytest.mark.slow
def test_a_resumed_stock_run_knows_its_new_data():
    mcmc = MCMC(OneStep(normal, **TINY), **COUNTS)
    mcmc.run(random.key(0), 0.0)
    mcmc.post_warmup_state = mcmc.last_state
    other = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
    other.run(random.key(0), 0.1)
    mcmc.run(random.key(1), 0.1)
    compare({"resumed": mcmc, "other": other})


def test_a_warm_start_is_where_the_next_run_goes_on():
    sampler = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
    sampler.warmup(random.key(0), 0.0)
    sampler.run(random.key(1), 3.0, warm_start=True)
    warm = sampler.last_state.train.best
    sampler.run(random.key(2), 3.0)
    assert sampler.last_state.train.best is warm


def test_draws_of_an_earlier_run_are_not_kept_beside_a_new_flow():
    sampler = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
    sampler.run(random.key(0), 0.0)
    assert sampler.get_samples()["x"].shape == (200,)
    sampler.warmup(random.key(0), 3.0)
    # an assertion in NumPyro 0.22
    with pytest.raises((AssertionError, ValueError), match="`run` must be called"):
        sampler.get_samples()
    with pytest.raises((AssertionError, ValueError), match="`run` must be called"):
        sampler.print_summary()


@pytest.mark.parametrize("name", ["z.typo", "~z.typo", "i.x", "typo"])
def test_a_misspelt_field_is_refused_before_the_training(name):
    sampler = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
    with pytest.raises(AttributeError, match=name):
        sampler.run(random.key(0), 0.0, extra_fields=(name,))
    assert sampler.last_state is None


def test_a_run_that_fails_leaves_the_one_before(monkeypatch):
    data = np.array(0.0)
    sampler = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
    sampler.run(random.key(0), data, extra_fields=("z",))
    draws = sampler.get_samples()["x"]
    monkeypatch.setattr(sampler_, "warmup", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sampler.run(random.key(1), 3.0)
    monkeypatch.undo()
    data[...] = 3.0  # nor does an array that its owner changes
    assert sampler.get_samples()["x"] is draws
    assert abs(sampler.evidence.log_z - normal_log_z(0.0)) < 0.01


@pytest.mark.slow
def test_draws_of_a_stock_run_from_this_ones_state_are_corrected():
    # hardly trained, so that Metropolis must refuse some proposals
    def odd(z):
        return jnp.sum(jnp.abs(z) ** 4)

    sampler = OneStepSampler(OneStep(potential_fn=odd, **TINY), **{**COUNTS, "num_warmup": 1, "num_chains": 2})
    sampler.warmup(random.key(0), init_params=jnp.zeros((2, 3)))
    later = OneStepSampler(sampler.sampler, **{**COUNTS, "num_warmup": 0, "num_chains": 2})
    later.post_warmup_state = sampler.last_state
    later.run(random.key(1), extra_fields=("accept_prob",))
    first = later.get_extra_fields(group_by_chain=True)["accept_prob"]
    assert later.last_state.i.tolist() == [1 + 50, 1 + 50]
    later.post_warmup_state = later.last_state
    later.run(random.key(3), extra_fields=("accept_prob", "mean_accept_prob", "i"))
    fields = later.get_extra_fields(group_by_chain=True)
    assert fields["i"].tolist() == 2 * [list(range(1 + 50 + 1, 1 + 50 + 50 + 1))]
    both = np.concatenate([first, fields["accept_prob"]], axis=1)
    np.testing.assert_allclose(fields["mean_accept_prob"][:, -1], both.mean(1), rtol=1e-5)
    mcmc = MCMC(sampler.sampler, **{**COUNTS, "num_warmup": 0}, num_chains=2, chain_method="vectorized")
    mcmc.post_warmup_state = sampler.last_state
    mcmc.run(random.key(2), extra_fields=("accept_prob",))
    assert 0 < np.min(mcmc.get_extra_fields()["accept_prob"]) < 1


def test_models_are_compared_after_what_they_read_has_changed(monkeypatch):
    fits = {}
    for shift in (1.0, 0.0):
        monkeypatch.setitem(KNOWN, "shift", shift)
        fits[shift] = OneStepSampler(OneStep(normal, **TINY), **COUNTS)
        fits[shift].run(random.key(0))
        assert fits[shift].evidence.log_z == fits[shift].evidence.log_z
    with pytest.raises(ValueError, match="different observed data"):
        compare(fits)


def test_a_potential_function_is_looked_at_again():
    scale = {"scale": 1.0}
    sampler = OneStepSampler(OneStep(potential_fn=lambda z: jnp.sum(z**2) / 2 / scale["scale"], **TINY), **COUNTS)
    sampler.run(random.key(0), init_params=jnp.zeros((4, 2)))
    assert any("potential_fn" in w for w in sampler.evidence.warnings)
    assert abs(sampler.evidence.log_z - np.log(2 * np.pi)) < 0.01
    scale["scale"] = 0.5
    sampler.post_warmup_state = sampler.last_state
    sampler.run(random.key(1))
    assert abs(sampler.evidence.log_z - np.log(np.pi)) < 0.1


@pytest.mark.slow
def test_a_file_of_another_model_is_refused(tmp_path):
    def edited(y):
        x = numpyro.sample("x", dist.Normal(0, 2))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    sampler = OneStepSampler(OneStep(normal, num_replicates=2, **TINY), **COUNTS)
    sampler.run(random.key(0), 1.0)
    sampler.save(tmp_path / "flow")
    with pytest.raises(ValueError, match="without a `postprocess_fn`"):
        OneStepSampler.load(tmp_path / "flow", OneStep(normal, num_replicates=2, **TINY), postprocess_fn=dict)
    with pytest.raises(ValueError, match="another model"):
        OneStepSampler.load(tmp_path / "flow", OneStep(edited, num_replicates=2, **TINY))
    loaded = OneStepSampler.load(tmp_path / "flow", OneStep(normal, num_replicates=2, **TINY))
    for name in ("best_elbo", "best_log_z"):
        saved = getattr(sampler.last_state.train, name)
        assert np.array_equal(getattr(loaded.last_state.train, name), saved)


def test_an_own_postprocessing_compiles_once(monkeypatch):
    monkeypatch.setattr(compilation, "_traces", [])  # none is given up meanwhile
    seen = []
    options = {"postprocess_fn": lambda z: seen.append(1) or {"twice": 2 * z["rate"]}}
    sampler = OneStepSampler(OneStep(skewed, **TINY), **COUNTS, **options)
    sampler.run(random.key(0))
    traces = len(seen)
    sampler.post_warmup_state = sampler.last_state
    sampler.run(random.key(1))
    assert len(seen) == traces


@pytest.mark.slow
def test_one_chain_goes_on_from_a_state_of_chains_with_flows_of_their_own():
    kernel = OneStep(normal, **TINY)
    stock = MCMC(kernel, **COUNTS, num_chains=2, chain_method="sequential")
    stock.run(random.key(0), 1.0)
    sampler = OneStepSampler(kernel, **COUNTS, num_chains=1)
    sampler.post_warmup_state = stock.last_state
    sampler.run(random.key(1), 1.0)
    assert sampler.get_samples()["x"].shape == (50,)
    assert abs(sampler.evidence.log_z - normal_log_z(1.0)) < 0.1
    sampler.run(random.key(2), 2.0, warm_start=True)
    assert abs(sampler.evidence.log_z - normal_log_z(2.0)) < 0.1
