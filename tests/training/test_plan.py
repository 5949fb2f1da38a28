import numpy as np
import pytest

from numpyro_onestep.training.losses import Consistency
from numpyro_onestep.training.plan import Plan, finer_budgets, make_plan

ONE_STEP_ITERATIONS = 2000


def planned(dim, budgets, consistency=(0.0, 0.0)):
    options = {"batch_size": None, "steps_per_iteration": None, "learning_rate": 0.03, "consistency": consistency}
    options |= {"num_blocks": 3, "width": None, "num_replicates": 1, "target_ess": 1.0}
    return make_plan(dim, budgets, **options)


def one_step_optimiser_steps(config):
    first, last = config.bounds(0, ONE_STEP_ITERATIONS)
    return int(last - first) * config.stages[0].steps_per_iteration


@pytest.mark.parametrize("dim", [2, 10, 25, 32, 61, 100])
@pytest.mark.parametrize("budgets", [(2,), (4, 2), (8, 4, 2), (128,)])
def test_finer_budgets_take_no_steps_from_the_one_step_map(dim, budgets):
    alone, shared = planned(dim, ()), planned(dim, budgets)
    assert one_step_optimiser_steps(shared) >= one_step_optimiser_steps(alone)
    assert [stage.num_steps for stage in shared.stages] == [1, *budgets]


def test_consistency_holds_a_budget_to_one_that_is_refined_before():
    stages = planned(10, (16, 4, 2), consistency=(1.0, 0.5)).stages
    losses = [[loss for loss in stage.losses if isinstance(loss, Consistency)] for stage in stages]
    assert losses == [[], [], [], [Consistency(1.0, 0.5, levels=(1,))]]


def test_budgets_are_checked():
    assert finer_budgets((4, 8, 2, 1), (0.0, 0.0)) == (8, 4, 2)
    with pytest.raises(ValueError, match="power of two"):
        finer_budgets((3,), (0.0, 0.0))
    assert finer_budgets((4, 2), (1.0, 0.0)) == (4, 2)
    for budgets in ((), (2,), (2, 8)):
        with pytest.raises(ValueError, match="name two such `budgets`"):
            finer_budgets(budgets, (0.0, 1.0))


@pytest.mark.parametrize("annealed", [False, True])
@pytest.mark.parametrize("num_iterations", [1, 15, 16, 30, 31, 48, 100, 500, 1000])
def test_rounds_follow_one_another_and_grow(num_iterations, annealed):
    iterations = np.arange(num_iterations)
    first, last = Plan((), target_ess=0.9).round(iterations, num_iterations, annealed)
    first, last = np.broadcast_to(first, iterations.shape), np.broadcast_to(last, iterations.shape)
    assert np.all((first <= iterations) & (iterations < last))
    ends = [0, *np.unique(last)]
    assert ends[-1] == num_iterations
    assert np.all(first == np.array([max(end for end in ends if end <= i) for i in iterations]))
    lengths = np.diff(ends)
    assert np.all(lengths[1:] >= lengths[:-1])
    assert np.all(lengths[1:-1] == 2 * lengths[:-2])


def test_finer_budgets_are_refined_after_training_in_full():
    assert planned(10, (2,)).num_levels == 1
    assert not planned(10, (2,)).in_rounds
    assert Plan(planned(10, ()).stages, target_ess=0.9).in_rounds
    assert not Plan(planned(10, (2,)).stages, target_ess=0.9).in_rounds
