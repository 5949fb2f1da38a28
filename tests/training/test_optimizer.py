import numpy as np
import pytest

from numpyro_onestep.training import optimizer


def test_learning_rate_warms_up_peaks_and_decays():
    rate = lambda progress: optimizer.learning_rate(np.asarray(progress), peak=0.03, warm_up=0.1, final=0.05)  # noqa: E731
    assert float(rate(0.0)) == 0.0
    assert float(rate(0.05)) == pytest.approx(0.5 * 0.03, rel=1e-5)
    assert float(rate(0.1)) == pytest.approx(0.03, rel=1e-5)
    assert float(rate(0.55)) == pytest.approx(0.03 * (0.05 + 0.95 * 0.5), rel=1e-5)
    assert float(rate(1.0)) == pytest.approx(0.05 * 0.03, rel=1e-4)
    progress = np.linspace(0, 1, 101)
    slopes = np.sign(np.diff(rate(progress)))
    np.testing.assert_array_equal(slopes, np.where(progress[1:] < 0.105, 1, -1))


def test_annealing_is_linear_and_complete_at_its_end():
    np.testing.assert_allclose(
        optimizer.annealing(np.array([0.0, 0.2, 0.4, 0.7, 1.0]), end=0.4), [0, 0.5, 1, 1, 1], rtol=1e-6
    )
    assert float(optimizer.annealing(np.array(0.5))) == 1.0
