"""Four fake devices, strict shapes: set before JAX makes its first device. Compiled programs are shared between tests."""

import importlib.metadata
import os
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers, and the processes that tests start, take it from the environment
    _cache = tempfile.TemporaryDirectory(prefix="gpicl-test-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # One thread for each of the two workers; no optimiser, and XLA's former code for fusions: compiles in a third of the time.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it, and end at what they do not know
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)  # XLA_FLAGS= bin/test: the programs that a user gets
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # made now: a command may ask for another number
