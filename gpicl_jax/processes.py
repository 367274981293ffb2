"""Several processes on one run, on one host or many: how they connect, which one writes, how they agree."""

import itertools
import os
import re
import socket
import time
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gpicl_jax.settings import UserError

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_PATIENCE = 300.0  # seconds that a process waits for the others
_LONG_PATIENCE = 24 * 3600.0  # while the first of them works alone
_MESSAGE_BYTES = 1000
_meetings = itertools.count()


def join(kind: str, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connects this process to the others that train the same run. It must be called before any device is used.

    Only process 0 prints to stdout. The errors of all processes are shown.

    Args:
      kind: `off` (one process), `auto` (a cluster that JAX detects, such as a TPU pod; under Open MPI, one device a process),
        `slurm` (started by srun), or `manual`, which needs the other arguments.
      coordinator: HOST:PORT where process 0 listens.
      process_id: 0 … `num_processes` − 1.

    Raises:
      UserError: the arguments do not fit together, or the processes cannot connect.

    Example:
      >>> join("off", coordinator="localhost:1234")
      Traceback (most recent call last):
      ...
      gpicl_jax.settings.UserError: --coordinator goes with --distributed=manual, not with --distributed=off
    """
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    for flag, value in given.items():
        if kind != "manual" and value is not None:
            raise UserError(f"{flag} goes with --distributed=manual, not with --distributed={kind}")
        if kind == "manual" and value is None:
            raise UserError(f"--distributed=manual needs {', '.join(given)}; {flag} is missing")
    if kind == "off":
        return
    if kind == "manual":
        _join_manual(coordinator, num_processes, process_id)
    elif kind == "slurm":
        missing = [name for name in _SLURM if name not in os.environ]
        if missing:
            raise UserError(f"--distributed=slurm outside of a Slurm step (no {missing[0]}); start it by srun")
        # JAX gives a task the one device of its rank on the node; a task that has the node for itself takes all.
        alone = os.environ["SLURM_NTASKS"] == os.environ.get("SLURM_STEP_NUM_NODES")
        _initialize(cluster_detection_method="slurm", local_device_ids=[] if alone else None)
    else:
        _join_found()
    if not is_writer():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _initialize(*found, **options) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would be deaf outside of training
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(*found, **options, initialization_timeout=int(_PATIENCE))


def _join_found() -> None:
    if "SLURM_JOB_ID" in os.environ:
        raise UserError("--distributed=auto in a Slurm job; give --distributed=slurm, which takes all devices of a node")
    try:
        _initialize()
    except ValueError as error:
        raise UserError(
            f"--distributed=auto finds no TPU pod, Slurm step, Open MPI or Kubernetes job here ({error}); "
            "try --distributed=manual"
        ) from None


def _join_manual(coordinator: str, num_processes: int, process_id: int) -> None:
    match = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise UserError(f"--coordinator {coordinator}; expected HOST:PORT, e.g. 10.0.0.1:1234")
    if num_processes < 1:
        raise UserError(f"--num-processes {num_processes}; expected 1 or more")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process-id {process_id}; expected 0 to {num_processes - 1}, as --num-processes is {num_processes}")
    _check_reachable(match[1].strip("[]"), int(match[2]), listens=process_id == 0)
    _initialize(coordinator, num_processes, process_id)


def _check_reachable(host: str, port: int, *, listens: bool) -> None:
    """Raises UserError for faults that JAX would not explain: a port in use, an unknown host, no process 0 there."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            (socket.create_server(("", port)) if listens else socket.create_connection((host, port), timeout=5.0)).close()
            return
        except OSError as error:
            if listens or isinstance(error, socket.gaierror):
                raise UserError(f"--coordinator {host}:{port}: {error.strerror.split(' (')[0]}; give another") from None
            if time.monotonic() > give_up:
                raise UserError(
                    f"no process 0 at --coordinator {host}:{port} in {_PATIENCE:.0f} s ({error.strerror or error}); "
                    "start it, or correct the address"
                ) from None
        time.sleep(0.2)


def is_writer() -> bool:
    """Returns whether this process writes the run's files. Process 0 alone does."""
    return jax.process_index() == 0


def meet(seconds: float = _PATIENCE) -> None:
    """Waits until all processes have come here, for `seconds` at most. No device is busy meanwhile."""
    if jax.process_count() > 1:
        wait = multihost.get_barrier_sync_fn()
        wait(key=f"gpicl_{next(_meetings)}", timeout_ms=int(1000 * seconds))


@contextmanager
def first_alone():
    """Yields whether this process is the first, which alone does the work of the block. The others wait for its end.

    Example:
      >>> with first_alone() as first:
      ...     first
      True
    """
    try:
        yield is_writer()
    finally:
        meet(_LONG_PATIENCE)


@contextmanager
def agreement():
    """Ends this block by a `UserError` in all processes where it ends so in one. So none waits for a process that has ended.

    Raises:
      UserError: this process's error, or else the first error of the others.
    """
    error = None
    try:
        yield
    except UserError as own:
        error = own
    if jax.process_count() > 1:
        meet()
        said = np.frombuffer(str(error or "").encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
        texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(said)]
        heard = [UserError(f"process {number}: {text}") for number, text in enumerate(texts) if text]
        error = error or next(iter(heard), None)
    if error is not None:
        raise error


def of_first(value: float) -> float:
    """Returns the float32 that process 0 holds."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
