import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from numpyro_onestep import enable_compilation_cache

SCRIPT = """
import jax
jax.devices()  # as where a model's data were made before
import numpyro_onestep
jax.jit(lambda x: 2 * x + 1)(3.0)
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def settings():
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_a_folder_of_this_version_and_machine(settings, tmp_path):
    folder = enable_compilation_cache(tmp_path)
    assert folder.parent == tmp_path
    assert jax.__version__ in folder.name
    assert not folder.stat().st_mode & 0o077  # for the user alone
    assert not list(folder.iterdir())
    jax.jit(lambda x: jnp.sum(x**3) + 5)(jnp.ones(7))
    assert list(folder.iterdir())


def test_the_environment_variable_enables_it_without_a_word(tmp_path):
    environment = os.environ | {"NUMPYRO_ONESTEP_CACHE": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    for _ in range(2):  # the second reads what the first has written
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().startswith(str(tmp_path))
        assert not done.stderr


def test_loggers_of_jax_are_left_as_they_are(settings, tmp_path):
    logger = logging.getLogger("jax")
    before = logger.level, list(logger.handlers), jax.config.jax_logging_level
    enable_compilation_cache(tmp_path)
    assert before == (logger.level, list(logger.handlers), jax.config.jax_logging_level)
