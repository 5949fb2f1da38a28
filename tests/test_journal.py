"""Runs that are interrupted, and end as if they had not been."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from interrupted import kill

from numpyro_onestep import OneStep, OneStepSampler, archive, journal, warmup
from numpyro_onestep.training import fit

DATA = jnp.array([1.0, 2.5])


def model(data, shift=0.0):
    x = numpyro.sample("x", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Normal(x + shift, 1.0), obs=data)


def sampler(**options):
    kernel = OneStep(model, **{"target_ess": 1.0, **options})
    return OneStepSampler(kernel, num_warmup=40, num_samples=20, num_chains=2, progress_bar=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, and its checkpoint."""
    run, path = sampler(), tmp_path_factory.mktemp("runs") / "finished"
    run.run(jax.random.key(0), DATA, checkpoint=path)
    return run, path


def stop_at(write, monkeypatch):
    """Interrupt the run in place of the checkpoint's write of this number; a state after each block of training."""
    count = iter(range(1000))
    original = archive.write

    def written(*args):
        if next(count) == write:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(archive, "write", written)
    monkeypatch.setattr(journal, "_INTERVAL", 0.0)


@pytest.mark.parametrize("write", [1, 8, 21])  # before the training, within it, before the audit
def test_an_interrupted_run_ends_as_an_undisturbed_one(write, finished, monkeypatch, tmp_path):
    path, (undisturbed, _) = tmp_path / "run", finished
    with monkeypatch.context() as patch:
        stop_at(write, patch)
        with pytest.raises(KeyboardInterrupt):
            sampler().run(jax.random.key(0), DATA, checkpoint=path)
    resumed = sampler()
    resumed.run(jax.random.key(0), DATA, checkpoint=path)
    np.testing.assert_array_equal(resumed.get_samples()["x"], undisturbed.get_samples()["x"])
    assert resumed.evidence == undisturbed.evidence
    assert resumed.num_gradients == undisturbed.num_gradients
    states = [run.last_state.train._replace(rng_key=None) for run in (resumed, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    undisturbed, path = finished
    monkeypatch.setattr(archive, "write", lambda *_: pytest.fail("there was something to keep"))
    monkeypatch.setattr(warmup, "fit", lambda state, *_, **__: state)
    run = sampler()
    run.run(jax.random.key(0), DATA, checkpoint=path)
    np.testing.assert_array_equal(run.get_samples()["x"], undisturbed.get_samples()["x"])


def test_an_interruption_leaves_the_sampler_as_it_was(finished, monkeypatch, tmp_path):
    run, _ = finished
    evidence, samples = run.evidence, run.get_samples()["x"]
    stop_at(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run.run(jax.random.key(1), 2 * DATA, checkpoint=tmp_path / "run")
    assert run.evidence == evidence
    np.testing.assert_array_equal(run.get_samples()["x"], samples)


@pytest.mark.parametrize(
    ("what", "key", "data", "options", "kwargs"),
    [
        ("arguments", 0, 2 * DATA, {}, {}),
        ("arguments, model", 0, DATA, {}, {"shift": 1.0}),
        ("random key", 1, DATA, {}, {}),
        ("options", 0, DATA, {"init_scale": 2.0}, {}),
        ("options", 0, DATA, {"target_ess": 0.9}, {}),
    ],
)
def test_other_runs_are_refused(what, key, data, options, kwargs, finished):
    with pytest.raises(ValueError, match=f"another run, with other .*{what}"):
        sampler(**options).run(jax.random.key(key), data, **kwargs, checkpoint=finished[1])


def test_a_checkpoint_is_refused_where_nothing_is_trained(finished, tmp_path):
    run = sampler()
    run.post_warmup_state = finished[0].last_state
    with pytest.raises(ValueError, match="`checkpoint` keeps a training"):
        run.run(jax.random.key(0), DATA, checkpoint=tmp_path / "run")


def test_a_folder_that_does_not_exist_is_told_at_once(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        sampler().run(jax.random.key(0), DATA, checkpoint=tmp_path / "nowhere" / "run")


def test_ctrl_c_keeps_what_training_has_come_to(finished, monkeypatch, tmp_path):
    path, original = tmp_path / "run", fit.advance

    def interrupted(state, *rest):
        if int(state.iteration) >= 20:
            raise KeyboardInterrupt
        return original(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler().run(jax.random.key(0), DATA, checkpoint=path)
    assert archive.read(path, "training checkpoint", 4)["stages"]["training"]["history"][-1][0] >= 15
    resumed = sampler()
    resumed.run(jax.random.key(0), DATA, checkpoint=path)
    np.testing.assert_array_equal(resumed.get_samples()["x"], finished[0].get_samples()["x"])


@pytest.mark.slow
def test_killed_runs_end_as_an_undisturbed_one():
    found = kill(10)
    assert found["killed"] == 10
    assert found["with a checkpoint"] >= 3
    assert found["other results"] == found["damaged"] == 0
