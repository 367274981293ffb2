"""Four fake devices, strict shapes: set before JAX makes its first device. Compiled programs are kept for the next time.

`GPICL_IMPORT=FILE.py` imports a file of the user's: the tests over the registries take its classes too.
"""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import pytest

MOST_BYTES = 2**30  # of programs

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and the processes that tests start, take it from the environment
    _caches = Path(__file__).parents[1] / ".cache"
    _cache = _caches / f"jaxlib-{importlib.metadata.version('jaxlib')}-{platform.node()}"
    for _each in _caches.glob("jaxlib-*"):
        if _each != _cache or sum(file.stat().st_size for file in _each.iterdir()) > MOST_BYTES:
            shutil.rmtree(_each)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # One thread for each of the two workers; no optimiser, and XLA's former code for fusions: compiles in a third of the time.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it, and end at what they do not know
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)  # XLA_FLAGS= bin/test: the programs that a user gets
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # made now: a command may ask for another number

from gpicl_jax.registry import import_file  # noqa: E402

if "GPICL_IMPORT" in os.environ:
    import_file(Path(os.environ["GPICL_IMPORT"]))


def pytest_collection_modifyitems(items):
    """A program that two processes write at once, or one that is killed writes, may be read by halves; it is compiled again."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache entry"))


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """After each file: those of all would fill gigabytes."""
    yield
    jax.clear_caches()
