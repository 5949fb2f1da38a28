import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """These models are tiny: nearly all of the time is the compiler's."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
