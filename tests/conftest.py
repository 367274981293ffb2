"""Four fake devices, strict shapes: set before JAX makes its first device. Compiled programs are shared between tests."""

import os
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and the processes that tests start, take it from the environment
    _cache = tempfile.TemporaryDirectory(prefix="gpicl-test-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # One thread for each of the two workers; and no optimiser: programs are the same, and compile in half the time.
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # made now: a command may ask for another number
