"""`python -m numpyro_onestep`: versions and devices, for a report of a fault."""

import platform
from importlib.metadata import PackageNotFoundError, version

import jax

from numpyro_onestep import __version__


def main() -> None:
    """Print them."""
    print(f"numpyro-onestep {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("numpyro", "jax", "jaxlib", "flax", "optax", "arviz", "numpy"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} is not installed")
    print(
        f"devices {', '.join(map(str, jax.devices()))}; float64 {'on' if jax.config.read('jax_enable_x64') else 'off'}"
    )


if __name__ == "__main__":
    main()
