import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem, tail_of
from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.flow import density, steps
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.training import evaluation, loop
from numpyro_onestep.training.evaluation import STOPS
from numpyro_onestep.training.losses import PathGradient
from numpyro_onestep.training.plan import Plan, Stage

LOG_Z = 5.0
NUM_ITERATIONS = 20
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))


def banana(bend, annealed=False):
    """A standard normal bent along a parabola; bend = 0 is the base itself."""

    def log_density(x):
        return LOG_Z - 0.5 * x[0] ** 2 - 0.5 * (x[1] - bend * (x[0] ** 2 - 1)) ** 2 - jnp.log(2 * jnp.pi)

    return Problem(BASE._replace(annealed=jnp.asarray(annealed)), safe_log_density(log_density))


def plan(factor=1.0):
    def loss(*args):
        return factor * PathGradient(batch_size=64)(*args)

    stage = Stage((loss,), num_steps=1, steps_per_iteration=5, learning_rate=0.03)
    return Plan((stage,), num_blocks=1, width=8)


# compiled once for all tests: what they vary is an argument


@jax.jit
def init(key, bend):
    return loop.init(key, banana(bend), plan(), NUM_ITERATIONS)


@jax.jit
def _advance(state, num_iterations, bend, annealed, factor):
    return loop.advance(state, banana(bend, annealed), plan(factor), num_iterations)


def advance(state, num_iterations, *, bend=0.8, annealed=False, factor=1.0):
    return _advance(state, num_iterations, bend, annealed, factor)


@pytest.fixture(scope="module")
def start():
    return init(random.key(1), 0.8)


def flat(tree):
    """All numbers of a pytree of arrays and keys in one vector."""
    leaves = [random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_a_base_that_fits_is_done_at_init():
    state = init(random.key(1), 0.0)
    assert bool(state.done)
    assert float(state.best_elbo) == pytest.approx(LOG_Z, abs=1e-4)
    assert float(state.ess_fraction) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_array_equal(flat(advance(state, 3, bend=0.0)), flat(state))


def test_best_elbo_never_falls_and_beats_the_base(start):
    assert not bool(start.done)
    state, elbos = start, [float(start.best_elbo)]
    for i in range(4):
        state = advance(state, 5)
        elbos.append(float(state.best_elbo))
        assert int(state.iteration) == 5 * (i + 1)
        assert float(state.best_elbo) >= float(state.elbo) - 0.05  # its standard error is deducted
    assert np.all(np.diff(elbos) >= 0)
    assert elbos[0] + 0.2 < elbos[-1] < LOG_Z
    assert np.any(flat(state.best) != flat(start.best))
    assert np.any(flat(state.network) != flat(state.average))
    # complete: nothing more happens
    np.testing.assert_array_equal(flat(advance(state, 5)), flat(state))


def test_the_best_network_stays_when_training_goes_wrong(start):
    state = advance(start, NUM_ITERATIONS, factor=-1.0)
    assert float(state.elbo) < float(start.best_elbo) - 0.5
    assert float(state.best_elbo) == float(start.best_elbo)
    np.testing.assert_array_equal(flat(state.best), flat(start.best))


def test_steps_shrink_with_the_learning_rate_towards_the_end(start):
    # Adam's steps are as long as the rate: 3 % of its peak and less in the last iteration
    middle, late = advance(start, 10), advance(start, NUM_ITERATIONS - 1)
    lengths = [np.linalg.norm(flat(advance(state, 1).network) - flat(state.network)) for state in (middle, late)]
    assert 0 < lengths[1] < 0.15 * lengths[0]


def test_pieces_equal_the_whole_bitwise(start):
    whole = advance(start, NUM_ITERATIONS)
    np.testing.assert_array_equal(flat(advance(advance(start, 7), NUM_ITERATIONS)), flat(whole))
    np.testing.assert_array_equal(flat(advance(init(random.key(1), 0.8), NUM_ITERATIONS)), flat(whole))
    other = advance(start._replace(rng_key=random.key(2)), NUM_ITERATIONS)
    assert np.any(flat(other.network) != flat(whole.network))


def test_a_region_without_density_does_not_stop_the_best(start):
    # some held-out draws will always end there: the true ELBO is minus infinity
    def log_density(x):
        return jnp.where(x[0] > 2.0, -jnp.inf, banana(0.8).target.value(x))

    problem = Problem(BASE, safe_log_density(log_density))
    state = loop.init(random.key(1), problem, plan(), NUM_ITERATIONS)
    assert np.isfinite(state.best_elbo)
    assert not np.isfinite(state.elbo)
    last = jax.jit(lambda state: loop.advance(state, problem, plan(), NUM_ITERATIONS))(state)
    assert float(last.best_elbo) > float(state.best_elbo) + 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_gradient_changes_no_parameter(start, bad):
    state = advance(start, 3, factor=bad)
    assert int(state.iteration) == 3
    for name in ("network", "best", "optimizer_state"):
        after = flat(getattr(state, name))
        assert np.all(np.isfinite(after))
        np.testing.assert_array_equal(after, flat(getattr(start, name)))
    # averaging equal numbers rounds
    np.testing.assert_allclose(flat(state.average), flat(start.average), rtol=1e-6, atol=1e-7)


def test_annealed_training_keeps_the_base_until_the_target_is_reached(start):
    early = advance(start, 9, annealed=True)
    assert float(early.best_elbo) == float(start.best_elbo)
    assert float(early.elbo) != float(start.elbo)
    assert float(advance(early, NUM_ITERATIONS, annealed=True).best_elbo) > float(start.best_elbo)
    # the gradients are those of another target
    assert np.any(flat(early.network) != flat(advance(start, 9).network))


def test_a_later_stage_refines_its_budget_and_leaves_the_one_step_map(getkey):
    stages = tuple(Stage((PathGradient(n, batch_size=64),), n, 5, 0.03, share) for n, share in ((1, 1.0), (2, 2.0)))
    refined = Plan(stages, num_blocks=1, width=8)
    start = jax.jit(lambda key: loop.init(key, banana(0.8), refined, NUM_ITERATIONS))(random.key(1))
    run = jax.jit(lambda state, n: loop.advance(state, banana(0.8), refined, n))
    first = run(start, 7)  # a third of twenty iterations, rounded up
    assert int(first.iteration) == 7
    last = run(first, NUM_ITERATIONS)
    arrays, before = last.best.arrays(), first.best.arrays()
    for name in arrays:
        level = arrays[name][0] if name.endswith("_corrections") else arrays[name]
        same = np.array_equal(level, before[name][0] if name.endswith("_corrections") else before[name])
        assert same != name.endswith("_corrections"), name
    x0 = base_.sample(BASE, getkey(), 4096)
    elbos = [jnp.mean(density.log_weights(last.best, banana(0.8), x0, n)[1]) for n in (1, 2, 4)]
    assert elbos[1] > elbos[0] + 0.01
    assert elbos[2] == pytest.approx(float(elbos[0]), abs=1e-3)
    np.testing.assert_array_equal(flat(run(start, NUM_ITERATIONS)), flat(last))


def test_a_warm_start_skips_what_the_earlier_flow_is_worth(start):
    @jax.jit
    def resume(network, bend):
        return loop.resume(start, network, banana(bend), plan())

    @jax.jit
    def fits(network):
        blocks = steps.blocks_of(network, 1)
        law = safe_log_density(lambda z: LOG_Z + density.log_prob(BASE, blocks, z))
        return loop.resume(start, network, Problem(BASE, law), plan())

    earlier = advance(start, NUM_ITERATIONS).best
    same = resume(earlier, 0.8)
    assert same.ess_fraction > 0.5
    assert int(same.iteration) == int(np.floor(NUM_ITERATIONS * min(float(same.ess_fraction) ** 2, 0.97)))
    assert np.array_equal(flat(same.network), flat(earlier))
    assert not bool(same.done)
    # the target that is this very flow's law leaves nothing to do
    assert bool(fits(earlier).done)
    # bent the other way, the earlier flow is worse than the base
    other = resume(earlier, -0.8)
    assert int(other.iteration) == 0
    assert np.array_equal(flat(other.network), flat(start.network))
    assert np.array_equal(flat(other.best), flat(start.best))


def test_weights_of_any_flow_average_to_the_evidence(getkey, start):
    # importance weights are unbiased for every injective map: here an untrained one with moved parameters
    numbers, unravel = ravel_pytree(start.network)
    network = unravel(numbers + 0.05 * random.normal(getkey(), numbers.shape))
    x0 = base_.sample(BASE, getkey(), 50_000)
    y, log_w = jax.jit(lambda network, x0: density.log_weights(network, banana(0.3), x0, 2))(network, x0)
    log_z, std_error = log_mean_weight(log_w)
    assert np.mean(np.abs(y - x0)) > 0.05
    assert abs(log_z - LOG_Z) < 5 * std_error
    assert std_error < 0.05


@pytest.mark.parametrize(("target_ess", "reason"), [(0.5, "enough effective draws"), (0.9999, "all iterations done")])
def test_training_ends_when_enough_draws_are_effective(target_ess, reason):
    stage = Stage((PathGradient(batch_size=64),), num_steps=1, steps_per_iteration=5, learning_rate=0.03)
    rounds = Plan((stage,), num_blocks=1, width=8, target_ess=target_ess)
    problem = banana(0.4)

    @jax.jit
    def run(key):
        start = loop.init(key, problem, rounds, 100)
        return start, loop.advance(start, problem, rounds, 100)

    start, last = run(random.key(3))
    assert STOPS[int(last.stop)] == reason
    batches = 64 * 5 * int(last.iteration)
    if last.done:
        assert int(last.iteration) in (16, 48)  # the ends of rounds
        assert last.ess_fraction > target_ess
    assert (reason in evaluation.describe(last)) == bool(last.done)
    evaluations = (int(last.num_gradients) - batches) / (2 * rounds.num_held_out)
    assert evaluations == 1 + {16: 1, 48: 2, 100: 3}[int(last.iteration)]  # the base's own first
    assert float(last.best_elbo) > float(start.best_elbo)


def test_training_ends_where_it_no_longer_pays():
    # one ridge and one iteration of one step: nothing that could bend the base into a ring
    ring = safe_log_density(lambda x: -0.5 * ((jnp.linalg.norm(x) - 4.0) / 0.2) ** 2)
    stage = Stage((PathGradient(batch_size=16),), num_steps=1, steps_per_iteration=1, learning_rate=1e-6)
    rounds, problem = Plan((stage,), num_blocks=1, width=8, target_ess=0.9), Problem(BASE, ring)
    start = loop.init(random.key(0), problem, rounds, 1000)
    last = jax.jit(lambda state: loop.advance(state, problem, rounds, 1000))(start)
    assert STOPS[int(last.stop)] == "more training no longer pays"
    assert int(last.iteration) == rounds.num_iterations_at_least


def test_a_heavy_tail_of_the_weights_is_told(getkey):
    uniform = random.uniform(getkey(), (2048,))
    for shape in (0.2, 0.5, 0.8):
        log_w = jnp.log1p(1e-3 * (uniform**-shape - 1) / shape)
        found, share = tail_of(log_w)
        assert abs(float(found) - shape) < 0.25
        assert 0 < float(share) < 0.01
    assert float(tail_of(jnp.zeros(2048))[0]) == -np.inf
