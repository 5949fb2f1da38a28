import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY
from numpyro.handlers import mask, reparam, scale
from numpyro.infer import init_to_uniform
from numpyro.infer.reparam import CircularReparam

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.model.initialize import setup_model, setup_potential
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.model.trace import masked_out

DATA = jnp.array([0.3, -0.2, 1.1, 0.4])


def likelihood(mu):
    numpyro.sample("y", dist.Normal(mu, 1).expand([4]).to_event(1), obs=DATA)


def proper():
    with mask(mask=np.array(True)):
        likelihood(numpyro.sample("mu", dist.Normal(0, 1)))


def improper():
    likelihood(numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ())))


def masked():
    with numpyro.plate("groups", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 1).mask(jnp.array([True, False])))
    likelihood(mu[0] + 0.1 * mu[1])


def masked_by_a_handler():
    with mask(mask=False):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
    likelihood(mu)


def scaled():
    with scale(scale=0.5):
        likelihood(numpyro.sample("mu", dist.Normal(0, 1)))


def unscaled():
    with scale(scale=1.0):
        likelihood(numpyro.sample("mu", dist.Normal(0, 1)))


def subsampled():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("data", 4, subsample_size=2):
        numpyro.sample("y", dist.Normal(mu, 1), obs=DATA[:2])


@reparam(config={"angle": CircularReparam()})
def circular():
    angle = numpyro.sample("angle", dist.VonMises(0.0, 2.0))
    likelihood(jnp.cos(angle))


def masked_choice():
    with mask(mask=False):
        choice = numpyro.sample("choice", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu + choice, 1), obs=0.5)


def with_factor():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.factor("pull", -(mu**2))


def masked_observations():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1).expand([4]).mask(DATA > 0).to_event(1), obs=DATA)


def setup_of(model):
    return setup_model(random.key(0), model, (), {}, init_strategy=init_to_uniform)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (improper, "site 'mu' has an improper prior"),
        (masked, "latent site 'mu' is masked"),
        (masked_by_a_handler, "latent site 'mu' is masked"),
        (masked_choice, "discrete site 'choice' is masked"),
        (scaled, "sites 'mu' and 'y' are rescaled by `handlers.scale`"),
        (subsampled, "plate 'data' subsamples 2 of 4"),
        (circular, "'angle_unwrapped' of `CircularReparam` repeats itself"),
    ],
)
def test_undefined_evidence_is_explained(model, words):
    assert any(words in caveat for caveat in setup_of(model).caveats)


@pytest.mark.parametrize("model", [proper, unscaled, with_factor, masked_observations])
def test_sound_evidence_has_no_caveat(model):
    assert setup_of(model).caveats == ()


def test_constants_are_constants_under_a_transformation():
    def caveats(model):
        found = []
        jax.jit(
            lambda key: found.append(setup_model(key, model, (), {}, init_strategy=init_to_uniform).caveats) or key
        )(random.key(0))
        return found[0]

    assert caveats(proper) == caveats(unscaled) == ()
    assert caveats(scaled) != ()


def test_a_factor_is_noted():
    assert "('pull')" in setup_of(with_factor).notes[0]


def whitened_by_hand():
    """As `NeuTraReparam` and `FlowReparam` write a prior in other coordinates."""
    scaled = numpyro.sample("scaled", dist.Normal(0, 1).mask(False))
    mu = numpyro.deterministic("mu", 2 * scaled)
    numpyro.factor("_mu_log_prob", dist.Normal(0, 2).log_prob(mu) + jnp.log(2.0))
    likelihood(mu)


def in_a_scope():
    with numpyro.handlers.scope(prefix="inner"):
        whitened_by_hand()


@pytest.mark.parametrize("model", [whitened_by_hand, in_a_scope, circular])
def test_a_factor_of_a_reparameterisation_is_not_noted(model):
    assert setup_of(model).notes == ()


@pytest.mark.parametrize("name", ["_penalty", "_other_log_prob"])
def test_a_factor_whose_name_begins_with_an_underscore_is_noted(name):
    def model():
        likelihood(mu := numpyro.sample("mu", dist.Normal(0, 1)))
        numpyro.factor(name, -(mu**2))

    assert f"('{name}')" in setup_of(model).notes[0]


@pytest.mark.slow
def test_lost_digits_are_told():
    # the potential of a large data set: differences of a nat are near its last digit in float32
    def potential_fn(z):
        return 3e6 + 0.5 * z @ z

    sampler = OneStepSampler(
        OneStep(potential_fn=potential_fn, **TINY), num_warmup=2, num_samples=50, progress_bar=False
    )
    sampler.run(random.key(0), init_params=jnp.zeros((4, 2)))
    assert not sampler.evidence.reliable
    assert any("rounding errors" in warning for warning in sampler.evidence.warnings)


def known_in_part():
    """Two of four observations are missing; NumPyro gives the other two latent values that touch nothing."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    known = jnp.array([True, True, False, False])
    with numpyro.plate("data", 4):
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.array([2.0, 2.0, 0.0, 0.0]), obs_mask=known)


def test_entries_that_touch_nothing_are_made_proper_and_the_evidence_stays():
    setup = setup_model(random.key(0), known_in_part, (), {}, init_strategy=init_to_uniform, fill_idle=True)
    assert setup.idle.tolist() == [False, True, True, False, False]
    assert setup.caveats == ()
    # the evidence is that of the two known values: N((2, 2); 0, I + 1), whatever the missing ones are
    log_density = setup.log_density((), {})
    grid = jnp.linspace(-8, 8, 401)
    idle = jnp.array([0.0, 0.3, -0.2, 0.0, 0.0])
    mu, y = jnp.meshgrid(grid, grid)

    def value(mu, y):
        return log_density(idle.at[0].set(mu).at[3].set(y).at[4].set(y))

    # y and its twin are independent given mu: the integral over both is the square of that over one
    values = jax.vmap(jax.vmap(value))(mu, y)
    one = 0.5 * (values - jax.vmap(lambda mu: value(mu, mu))(grid))
    step = grid[1] - grid[0]
    inner = jax.vmap(lambda mu: value(mu, mu))(grid) + 2 * jnp.log(jnp.sum(jnp.exp(one), axis=0) * step)
    outer = jnp.log(jnp.sum(jnp.exp(inner)) * step) - jnp.sum(jax.scipy.stats.norm.logpdf(idle[1:3]))
    exact = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2) + 1).log_prob(jnp.full(2, 2.0))
    assert np.isclose(outer, exact, atol=1e-3)


def test_a_masked_prior_that_matters_is_still_told():
    setup = setup_model(random.key(0), masked, (), {}, init_strategy=init_to_uniform, fill_idle=True)
    assert setup.idle is None
    assert "masked" in setup.caveats[0]


def masked_inside_an_event():
    numpyro.sample("x", dist.Normal(0, 1).expand([3]).mask(jnp.array([True, False, True])).to_event(1))


def masked_and_repeated():
    numpyro.sample("x", dist.Normal(jnp.zeros(2), 1).mask(jnp.array([True, False])), sample_shape=(3,))


@pytest.mark.parametrize(
    ("model", "out"),
    [(masked_inside_an_event, [False, True, False]), (masked_and_repeated, 3 * [[False, True]])],
)
def test_masks_are_found_wherever_they_stand(model, out):
    site = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()["x"]
    assert masked_out(site["fn"], np.shape(site["value"])).tolist() == out


def factor_likelihood(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.factor("y", dist.Normal(mu, 1).log_prob(y).sum())


def imputing(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1).expand(y.shape).to_event(0), obs=y, obs_mask=~jnp.isnan(y))


def observed_of(model, *args):
    return setup_model(random.key(0), model, args, {}, init_strategy=init_to_uniform).observed


def test_observed_values_are_those_that_count():
    assert observed_of(factor_likelihood, DATA) is None
    assert np.array_equal(observed_of(masked_observations), DATA[DATA > 0])
    assert np.allclose(observed_of(imputing, jnp.array([2.0, jnp.nan, 1.0])), [2.0, 1.0])


def test_an_improper_prior_is_found_beneath_a_transformation():
    def transformed():
        prior = dist.ImproperUniform(dist.constraints.real, (), ())
        likelihood(numpyro.sample("mu", dist.TransformedDistribution(prior, dist.transforms.ExpTransform())))

    assert any("improper" in caveat for caveat in setup_of(transformed).caveats)


def test_integers_among_the_starting_values_are_numbers_like_others():
    setup = setup_potential(
        lambda z: jnp.sum(z["x"] ** 2) + jnp.sum((z["n"] - 0.5) ** 2), {"x": 0.0, "n": jnp.arange(2)}
    )
    density = safe_log_density(setup.log_density((), {}))
    assert np.allclose(density.value_and_grad(jnp.full(3, 0.25))[1], [0.5, 0.5, -0.5])
    assert setup.unravel(setup.center)["n"].dtype == setup.center.dtype


def test_a_parameters_random_value_is_the_same_at_every_look():
    def shifted():
        numpyro.sample("x", dist.Normal(numpyro.param("shift", lambda key: random.normal(key)), 1))

    looks = [setup_model(random.key(i), shifted, (), {}, init_strategy=init_to_uniform) for i in range(2)]
    first, second = (look.log_density((), {})(jnp.ones(1)) for look in looks)
    assert first == second
    assert looks[0].identity == looks[1].identity


def several_of_each():
    improper = [numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), ())) for name in "abc"]
    numpyro.sample("d", dist.Normal(0, 1))
    with numpyro.plate("rows", 4, subsample_size=2), numpyro.plate("columns", 6, subsample_size=3):
        numpyro.sample("y", dist.Normal(sum(improper), 1), obs=jnp.zeros((3, 2)))
        numpyro.sample("z", dist.Normal(improper[0], 1), obs=jnp.zeros((3, 2)))


def test_a_caveat_of_several_sites_is_said_once():
    assert setup_of(several_of_each).caveats == (
        "sites 'a', 'b' and 'c' have improper priors: the evidence has no scale; use proper priors.",
        "plates 'rows' subsamples 2 of 4 and 'columns' subsamples 3 of 6: their likelihoods are rescaled.",
        "sites 'y' and 'z' are rescaled by `handlers.scale` or a subsampled plate.",
    )
