"""Several processes on one run: real ones, with gloo between them, on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gpicl_jax import processes
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.training.loop import train
from gpicl_jax.training.meta_test import load_params
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY

# SGD without momentum: losses differ by rounding alone, which Adam would enlarge.
SETTINGS = ("--optimizer.name=sgd", "--optimizer.momentum=0", "--train.steps=60", "--train.validate_every=30")


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def start_two(*arguments, slurm: bool = False) -> list[subprocess.Popen]:
    """Two processes of two fake devices each."""
    port, started = free_port(), []
    for number in range(2):
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
        if slurm:
            flags = ["--distributed=slurm"]
            environment |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": str(port)}
            environment |= {"SLURM_NTASKS": "2", "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        else:
            flags = ["--distributed=manual", f"--coordinator=localhost:{port}", "--num-processes=2", f"--process-id={number}"]
        command = [sys.executable, "-u", "-m", "gpicl_jax", "train", *map(str, arguments), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, **pipes, text=True, env=environment))
    return started


def wait_for(two: list[subprocess.Popen]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, outputs and errors of both; the first that fails is not left waiting for."""
    try:
        said = [process.communicate(timeout=300) for process in two]
    finally:
        for process in two:
            process.kill()
            process.communicate()
    return [process.returncode for process in two], *([each[of] for each in said] for of in (0, 1))


def losses(run_dir: Path) -> dict[tuple[int, str], float]:
    """By step and name; a step that was written twice is an error."""
    found = {}
    for record in read_metrics(run_dir):
        name = "loss" if "loss" in record else "validation_loss"
        assert (record["step"], name) not in found
        found[record["step"], name] = record[name]
    return found


def train_alone(run_dir: Path, num_devices: int) -> dict[tuple[int, str], float]:
    """From where the run in `run_dir` is to its end, in this process."""
    folder = RunFolder.open(run_dir)
    train(Trainer(folder.config(), devices=jax.devices()[:num_devices]), folder, {})
    return losses(run_dir)


@pytest.mark.process
def test_two_processes_stop_together_go_on_and_learn_what_one_would(tmp_path):
    """Process 1 alone hears SIGTERM; pmap before the break, sharded jit and Slurm's variables after it."""
    run_dir = tmp_path / "run"
    two = start_two(TINY, *SETTINGS, "--run-dir", run_dir)
    for line in two[0].stdout:
        if line.startswith("compiled"):  # and so runs; the other may compile still
            two[1].send_signal(signal.SIGTERM)
            break
    codes, outputs, errors = wait_for(two)
    assert codes == [143, 143], errors
    assert "stopped by SIGTERM at step" in outputs[0] and "--resume   (in every process" in outputs[0] and outputs[1] == ""
    config = load_config(str(run_dir / "config.toml"))
    step = load_params(RunFolder.open(run_dir), config, "latest")[1]  # on one device
    assert 0 < step < 60 and max(step for step, _ in losses(run_dir)) == step

    alone, straight = tmp_path / "alone", tmp_path / "straight"
    shutil.copytree(run_dir, alone)
    RunFolder.create(straight, config)
    expected = train_alone(straight, num_devices=1)
    assert len(expected) == 12 + 2

    extra = ["--parallel=jit", "--resume", "--profile-steps=58:60"]
    codes, outputs, errors = wait_for(start_two(TINY, *SETTINGS, "--run-dir", run_dir, *extra, slurm=True))
    assert codes == [0, 0], errors
    assert "4 × cpu in 2 processes" in outputs[0] and "different images" in outputs[0] and outputs[1] == ""
    for found in (losses(run_dir), train_alone(alone, num_devices=1)):
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), [expected[key] for key in found], rtol=1e-5)
    assert [each["processes"] for each in json.loads((run_dir / "run.json").read_text())["commands"]] == [2, 2]
    files = {"config.toml", "run.json", "metrics.jsonl", "checkpoints", "learning_curves.csv", "learning_curves.png"}
    assert {item.name for item in run_dir.iterdir()} == files | {"summary.json", ".lock", "profile"}
    assert len(list(run_dir.glob("profile/**/*.xplane.pb"))) == 1


@pytest.mark.process
def test_a_mistake_that_one_process_finds_ends_both(tmp_path):
    """The folder is the first one's to look at; the other would wait for it."""
    (tmp_path / "thesis.tex").write_text("")
    codes, outputs, errors = wait_for(start_two(TINY, *SETTINGS, "--run-dir", tmp_path))
    message = f"{tmp_path} is not empty and holds no run; choose another --run-dir\n"
    assert codes == [2, 2] and outputs[1] == ""
    assert errors == [f"gpicl: error: {message}", f"gpicl: error: process 0: {message}"]


MANUAL = ["--distributed=manual", "--coordinator=localhost:PORT", "--num-processes=2", "--process-id=1"]
BAD_FLAGS = {
    "coordinator without manual": (["--coordinator=a:1"], "--coordinator goes with --distributed=manual"),
    "number under slurm": (["--distributed=slurm", "--process-id=0"], "--process-id goes with --distributed=manual"),
    "no coordinator": ([MANUAL[0], *MANUAL[2:]], "--coordinator is missing"),
    "no process id": (MANUAL[:3], "--process-id is missing"),
    "id too large": ([*MANUAL[:3], "--process-id=2"], "--process-id 2; expected 0 to 1"),
    "id below 0": ([*MANUAL[:3], "--process-id=-1"], "--process-id -1; expected 0 to 1"),
    "no processes": ([*MANUAL, "--num-processes=0"], "--num-processes 0; expected 1 or more"),
    "number that is none": ([*MANUAL, "--num-processes=two"], "invalid int value: 'two'"),
    "address without port": ([*MANUAL, "--coordinator=localhost"], "expected HOST:PORT"),
    "port too large": ([*MANUAL, "--coordinator=localhost:99999"], "expected HOST:PORT"),
    "host that is none": ([*MANUAL, "--coordinator=none.invalid:1234"], "--coordinator none.invalid:1234: "),
    "nobody there": (MANUAL, "no process 0 at --coordinator localhost:"),
    "no step of Slurm": (["--distributed=slurm"], "outside of a Slurm step (no SLURM_JOB_ID); start it by srun"),
    "unknown kind": (["--distributed=slrum"], "invalid choice: 'slrum'"),
    "no folder": ([*MANUAL, "FOLDER"], "--distributed=manual needs --run-dir DIR, the same for all processes"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_a_wrong_flag_is_one_line(name, tmp_path, capsys, monkeypatch):
    flags, message = BAD_FLAGS[name]
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    flags = [flag.replace("PORT", str(free_port())) for flag in flags]
    folder = [] if "FOLDER" in flags else ["--run-dir", str(tmp_path / "run")]
    assert main(["train", "digits_transformer", *folder, *(flag for flag in flags if flag != "FOLDER")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("gpicl: error: ")
    assert not (tmp_path / "run").exists()


def test_auto_is_not_for_slurm(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert main(["train", "digits_transformer", "--run-dir", str(tmp_path / "run"), "--distributed=auto"]) == 2
    assert "--distributed=auto in a Slurm job; give --distributed=slurm" in capsys.readouterr().err


def test_a_port_in_use_is_named(tmp_path, capsys):
    with socket.create_server(("", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        flags = ["--distributed=manual", f"--coordinator={address}", "--num-processes=2", "--process-id=0"]
        assert main(["train", "digits_transformer", "--run-dir", str(tmp_path / "run"), *flags]) == 2
    assert f"--coordinator {address}: Address already in use; give another" in capsys.readouterr().err


@pytest.mark.process
def test_auto_where_no_cluster_is(tmp_path):
    command = [
        sys.executable,
        "-m",
        "gpicl_jax",
        "train",
        "digits_transformer",
        "--distributed=auto",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "KUBERNETES"))}
    done = subprocess.run(command, capture_output=True, text=True, env=outside)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--distributed=auto finds no TPU pod, Slurm step, Open MPI or Kubernetes job here" in done.stderr
