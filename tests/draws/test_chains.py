import numpy as np

from numpyro_onestep.draws import chains


def test_chains_mix_where_each_coordinate_has_enough_effective_draws():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 1000, 3)).astype(np.float32)
    assert chains.mix(points)
    stays = points.copy()
    stays[2, 300:340] = [0.0, 5.0, 0.0]  # one draw in a hundred, extreme in one coordinate
    assert not chains.mix(stays)
    still = points.copy()
    still[:, :, 1] = 0.0
    assert not chains.mix(still)


def test_more_effective_draws_than_a_bridge_has_particles_are_enough():
    rng = np.random.default_rng(0)
    slow = np.empty((4, 20_000, 1))
    slow[:, 0] = 0.0
    for i in range(1, slow.shape[1]):
        slow[:, i] = 0.85 * slow[:, i - 1] + rng.normal(size=(4, 1))
    assert chains.mix(slow)  # 8 % are effective, 6500
    assert not chains.mix(slow[:, :1000])
    assert chains.mix(slow[:, :50])  # too few to tell
