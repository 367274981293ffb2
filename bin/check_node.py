"""Says in one line what this machine lacks for a job, and exits with 2. The batch scripts run it before they train.

.venv/bin/python bin/check_node.py gpu     # on a node of a Slurm job; tpu: on a worker of a TPU pod
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

INSTALL = {"cpu": "-e .", "gpu": "-e '.[cuda]'", "tpu": "-e . 'jax[tpu]'"}
COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE")  # 0 is none. In the others it is the number of a GPU.
GRANTED = (*COUNTS, "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
PATIENCE = 180  # seconds. Workers of a pod wait for each other when JAX starts.


def backend() -> str:
    """Returns the platform that JAX uses here, or why it has none."""
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"nothing within {PATIENCE} s"
    return done.stdout.strip() or f"nothing ({(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]})"


def lacking(kind: str) -> str | None:
    """Returns what is wrong and what to do, or None where the job can train. `kind` is `gpu` or `tpu`."""
    data_dir = os.environ.get("TFDS_DATA_DIR")
    if data_dir and not Path(data_dir).expanduser().is_dir():
        return f"TFDS_DATA_DIR={data_dir} is no folder; set it to the folder of prepared sets, or unset it"
    granted = [f"{name}={os.environ[name]}" for name in GRANTED if is_given(name)]
    platforms = os.environ.get("JAX_PLATFORMS", "")
    for_cpus = kind == "gpu" and not granted and platforms == "cpu"
    wanted, seen = "cpu" if for_cpus else kind, backend()
    if seen == wanted:
        return None
    if wanted == "gpu" and not granted:
        return "the job has no GPU; add --gpus-per-node=1, or ask for CPUs: JAX_PLATFORMS=cpu sbatch --gpus-per-node=0 …"
    given = {"cpu": "JAX_PLATFORMS=cpu", "gpu": " ".join(granted), "tpu": "a TPU pod"}[wanted]
    if platforms.startswith("cpu") and not for_cpus:
        what_to_do = f"unset JAX_PLATFORMS={platforms}"
    else:
        what_to_do = f"run .venv/bin/pip install {INSTALL[wanted]}, and if that has been done, see that the driver works"
    return f"{given}, but JAX in .venv sees {seen}, not {wanted}; {what_to_do}"


def is_given(name: str) -> bool:
    """Returns whether a variable says that there are GPUs."""
    return os.environ.get(name, "") not in ("", "NoDevFiles", *(["0"] if name in COUNTS else []))


if __name__ == "__main__" and (text := lacking(sys.argv[1])):
    print(f"{socket.gethostname()}: {text}", file=sys.stderr)
    sys.exit(2)
