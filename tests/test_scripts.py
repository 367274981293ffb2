"""The scripts, with an srun, scontrol, gcloud and Python that only write down how they were called."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

BIN = Path(__file__).parents[1] / "bin"
FAKE = """#!/bin/bash
printf '%q ' {name} "$@" >> calls
echo >> calls
case "$*" in *--worker=0*) command="${{@: -1}}"; HOME=$PWD bash -c "${{command#--command=}}" ;; esac
exit {code}
"""


def call(folder: Path, script: str, *arguments: str, srun: int = 0, **variables: str) -> tuple[int, list[list[str]]]:
    """The script's exit code, and what it called."""
    (folder / "gpicl_jax").mkdir(exist_ok=True)
    for name, code in {"srun": srun, "scontrol": 0, "gcloud": 0}.items():
        (folder / name).write_text(FAKE.format(name=name, code=code))
        (folder / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv" / "bin" / "gpicl").write_text(FAKE.format(name="gpicl", code=srun))
    (folder / ".venv" / "bin" / "gpicl").chmod(0o755)
    (folder / "calls").unlink(missing_ok=True)
    environment = {
        **os.environ,
        **variables,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(folder),
    }
    done = subprocess.run(["bash", BIN / script, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout == "" and ("usage" in done.stderr) == (done.returncode == 2), done.stderr
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return done.returncode, [shlex.split(line) for line in calls]


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_slurm_job_that_was_stopped_is_queued_again_and_then_resumes(code, tmp_path):
    run_dir = tmp_path / "a run"
    for resume in ([], ["--resume"]):
        returned, calls = call(tmp_path, "slurm_train.sbatch", "digits", str(run_dir), "--data.weights=[1, 3]", srun=code)
        train = [".venv/bin/gpicl", "train", "digits", "--run-dir", str(run_dir), "--distributed=slurm"]
        assert calls[0] == ["srun", "--kill-on-bad-exit=1", *train, *resume, "--data.weights=[1, 3]"]
        assert returned == code and calls[1:] == ([["scontrol", "requeue", "7"]] if code == 143 else [])
        run_dir.mkdir(exist_ok=True)
        (run_dir / "config.toml").touch()


def test_a_tpu_pod_starts_on_all_workers_and_then_resumes(tmp_path):
    run_dir = tmp_path / "a run"
    for resume in ([], ["--resume"]):
        returned, calls = call(tmp_path, "tpu_pod.sh", "pod", "zone", "digits", str(run_dir), "--data.weights=[1, 3]")
        assert returned == 0 and len(calls) == 2
        assert calls[1][:-1] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all"]
        start, command = calls[1][-1].split(" && ")
        assert start == "--command=cd ~/gpicl_jax"
        train = [".venv/bin/gpicl", "train", "digits", "--run-dir", str(run_dir), "--distributed=auto"]
        assert shlex.split(command) == [*train, *resume, "--data.weights=[1, 3]"]
        run_dir.mkdir(exist_ok=True)
        (run_dir / "config.toml").touch()


@pytest.mark.parametrize("code", [0, 1, 143])
def test_an_array_job_shares_an_experiment_and_queues_a_stopped_part_again(code, tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"}
    array |= {"SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_COUNT": "8"}
    arguments = ("slurm_experiment.sbatch", "scaling", "paper", "--seeds", "2")
    returned, calls = call(tmp_path, *arguments, srun=code, **array)
    assert calls[0] == ["gpicl", "experiment", "scaling", "--scale", "paper", "--part", "3/8", "--seeds", "2"]
    assert returned == code and calls[1:] == ([["scontrol", "requeue", "9_3"]] if code == 143 else [])
    assert call(tmp_path, *arguments, **{**array, "SLURM_ARRAY_TASK_MIN": "0"})[1] == []  # 0-7 would leave a part out


@pytest.mark.parametrize("script", ["slurm_train.sbatch", "tpu_pod.sh", "slurm_experiment.sbatch"])
def test_too_few_arguments_tell_the_usage(script, tmp_path):
    assert call(tmp_path, script, "digits") == (2, [])


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([], ["-m", "not process"]),
        (["-k", "a name"], ["-m", "not process", "-k", "a name"]),
        (["--all"], []),
        (["--all", "-W", "error"], ["-W", "error"]),
    ],
)
def test_whole_processes_are_tested_when_all_is_asked_for(given, taken, tmp_path):
    shutil.copytree(BIN, tmp_path / "bin")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(FAKE.format(name="python", code=3))
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "setup.cfg").touch()
    (tmp_path / ".venv" / ".installed-test").touch()
    done = subprocess.run([tmp_path / "bin" / "test", *given], capture_output=True, text=True)
    assert done.returncode == 3 and ("bin/test --all" in done.stderr) == ("--all" not in given)
    assert shlex.split((tmp_path / "calls").read_text()) == ["python", "-m", "pytest", *taken]
