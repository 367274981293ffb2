"""The scripts, with stand-ins for Slurm's commands, gcloud, JAX and gpicl that write down how they were called."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

BIN = Path(__file__).parents[1] / "bin"
RECORD = """#!/bin/bash
printf '%q ' "${0##*/}" "$@" >> calls
echo >> calls
"""
FAKES = {
    "srun": RECORD + 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scancel": RECORD + "kill -TERM $(cat worker)",
    "scontrol": RECORD + "exit ${SCONTROL:-0}",
    "squeue": "#!/bin/bash\necho ${STATE:-RUNNING}",
    "sleep": "#!/bin/bash\nexec /bin/sleep 0.01",
    "gcloud": RECORD + 'command=${@: -1}; HOME=$PWD exec bash -c "${command#--command=}"',
    ".venv/bin/gpicl": RECORD + 'echo $$ > worker; save() { mkdir -p "$SAVED/$1"; }; eval "$WORKER"',
    ".venv/bin/python": f'#!/bin/bash\nexec {sys.executable} "$@"',
}
ONE_GPU = {"SLURM_GPUS_ON_NODE": "1", "SEEN": "gpu"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"}
ARRAY |= {"SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_COUNT": "8"}
SLURM = {"slurm_train.sbatch": ("digits", "a run"), "slurm_experiment.sbatch": ("few-shot", "paper")}
SCRIPTS = {**SLURM, "tpu_pod.sh": ("pod", "zone", "digits", "a run")}
CHECKPOINTS = {"slurm_train.sbatch": "a run/checkpoints", "slurm_experiment.sbatch": "runs/few_shot/paper/unit/checkpoints"}


@pytest.fixture
def clone(tmp_path):
    """A clone without a package, whose JAX sees what the variable SEEN says. Its parent has the commands of the system."""
    folder = tmp_path / "gpicl_jax"
    shutil.copytree(BIN, folder / "bin")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "jax.py").write_text("import os\n\ndef default_backend():\n    return os.environ['SEEN']\n")
    for name, text in FAKES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "gpicl_jax").symlink_to(folder)  # ~/gpicl_jax, with it as ~
    return folder


def call(clone: Path, script: str, *arguments: str, **variables: str) -> tuple[int, list[list[str]], str]:
    """The script's exit code, what it called but for the checks that come first, and what it says on stderr."""
    (clone / "calls").write_text("")
    system = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_", "CUDA_", "TFDS_"))}
    slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(clone), "SLURM_NNODES": "2"}
    stand_ins = {"PATH": f"{clone}:{os.environ['PATH']}", "PYTHONPATH": str(clone), "SAVED": CHECKPOINTS.get(script, "")}
    environment = {**system, **slurm, **stand_ins, **variables}
    done = subprocess.run(["bash", BIN / script, *arguments], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode != 2 or "WORKER" in variables or done.stderr.count("\n") == 1, done.stderr
    calls = [shlex.split(line) for line in (clone / "calls").read_text().splitlines()]
    return done.returncode, [each for each in calls if "check_node.py" not in " ".join(each)], done.stderr


# What a worker does, its exit code, and whether its job is queued again. STOP: the batch script gets SIGTERM.
STOP = "kill -TERM $PPID; for ((i = 0; i < 500; i++)); do /bin/sleep 0.02; done; exit 77"
WORKERS = {
    "finished": ("save 2", 0, False),
    "failed by itself": ("save 2; exit 1", 1, False),
    "refused": ("save 2; exit 2", 2, False),
    "killed, not by SIGTERM": ("save 2; kill -KILL $$", 137, False),
    "SIGTERM to the worker alone": ("save 2; exit 143", 143, True),
    "stopped": (f"trap 'save 2; exit 143' TERM; {STOP}", 143, True),
    "stopped, by exit 1": (f"save 2; trap 'exit 1' TERM; {STOP}", 1, True),
    "stopped, killed while saving": (f"save 2; trap 'kill -KILL $$' TERM; {STOP}", 137, True),
    "stopped, hangs": (
        "save 2; trap '' TERM; kill -TERM $PPID; for ((i = 0; i < 3000; i++)); do"
        " grep -q ^scontrol calls && exit; /bin/sleep 0.02; done; echo outlived the script >> calls",
        143,
        True,
    ),
    "stopped, finished nevertheless": (f"trap 'save 2; exit 0' TERM; {STOP}", 0, False),
    "stopped, nothing new saved": (f"trap 'exit 143' TERM; {STOP}", 143, False),
    "SIGTERM to the worker alone, nothing new saved": ("exit 143", 143, False),
    "stopped, killed, half a checkpoint": (f"trap 'save 2.orbax-checkpoint-tmp; kill -KILL $$' TERM; {STOP}", 137, False),
}


@pytest.mark.parametrize("script", SLURM)
@pytest.mark.parametrize("worker", WORKERS)
def test_a_job_that_was_stopped_after_progress_is_queued_again_however_its_worker_ends(worker, script, clone):
    (clone / CHECKPOINTS[script] / "1").mkdir(parents=True)
    does, code, again = WORKERS[worker]
    returned, calls, said = call(clone, script, *SLURM[script], **ONE_GPU, **ARRAY, WORKER=does)
    job = "7" if script == "slurm_train.sbatch" else "9_3"
    assert returned == code, said
    assert [each for each in calls if each[0] == "scontrol"] == ([["scontrol", "requeue", job]] if again else []), said
    forwarded = [["scancel", "--signal=TERM", "7"]] if job == "7" and "stopped" in worker else []
    assert [each for each in calls if each[0] == "scancel"] == forwarded
    assert ("saved anything new, not queued again" in said) == ("nothing new" in worker or "half" in worker)
    assert ["outlived", "the", "script"] not in calls
    assert ("still runs 90 s after SIGTERM" in said) == ("hangs" in worker)


@pytest.mark.parametrize("script", SLURM)
def test_a_cancelled_job_stays_so_and_one_that_slurm_does_not_queue_again_says_what_to_do(script, clone):
    arguments = (clone, script, *SLURM[script])
    _, calls, said = call(*arguments, **ONE_GPU, **ARRAY, WORKER="save 1; exit 143", STATE="COMPLETING")
    assert "cancelled, not queued again" in said and "scontrol" not in [name for name, *_ in calls]
    _, _, said = call(*arguments, **ONE_GPU, **ARRAY, WORKER="save 2; exit 143", SCONTROL="1")
    assert "submit the same command" in said


@pytest.mark.parametrize("option", [("--runs-dir", "else where"), ("--runs-dir=else where",)])
def test_progress_of_an_experiment_is_also_a_row_or_a_checkpoint_in_a_folder_of_its_own(option, clone):
    arguments = (clone, "slurm_experiment.sbatch", "few-shot", "paper")
    (clone / "results" / "few_shot").mkdir(parents=True)
    for what, again in {"": False, "echo row >> results/few_shot/paper.csv;": True}.items():
        calls = call(*arguments, **ONE_GPU, **ARRAY, WORKER=f"{what} exit 143")[1]
        assert (calls[-1][0] == "scontrol") == again
    calls = call(*arguments, *option, **ONE_GPU, **ARRAY, WORKER="mkdir -p 'else where/paper/unit/checkpoints/8'; exit 143")[1]
    assert calls[-1][0] == "scontrol"


def test_progress_of_a_comparison_is_also_a_row_or_a_checkpoint_of_its_trials(clone):
    from gpicl_jax.experiments.engine import make_experiment
    from gpicl_jax.experiments.engine.run import Asked

    (clone / "results" / "comparison").mkdir(parents=True)
    arguments = "comparison", "laptop"
    trials = make_experiment(*arguments)._trials(Asked(Path("runs/comparison"), Path("results/comparison")))
    for what in (f"mkdir -p {trials.runs_dir}/unit/checkpoints/8", f"touch {trials.table.path}"):
        _, calls, _ = call(clone, "slurm_experiment.sbatch", *arguments, **ONE_GPU, **ARRAY, WORKER=f"{what}; exit 143")
        assert calls[-1][0] == "scontrol"


@pytest.mark.parametrize("script", SLURM)
def test_the_signal_before_the_limit_goes_to_the_script_and_leaves_time_for_the_grace(script):
    assert "\n#SBATCH --signal=B:TERM@120\n" in (BIN / script).read_text()


def test_a_slurm_job_trains_and_then_resumes(clone):
    run_dir = clone / "a run"
    for resume in ([], ["--resume"]):
        returned, calls, _ = call(clone, "slurm_train.sbatch", "digits", str(run_dir), "--data.weights=[1, 3]", **ONE_GPU)
        train = ["train", "digits", "--run-dir", str(run_dir), "--distributed=slurm", *resume, "--data.weights=[1, 3]"]
        check = "srun --ntasks=2 --ntasks-per-node=1 .venv/bin/python bin/check_node.py gpu"
        assert returned == 0 and (clone / "calls").read_text().startswith(check)  # once on each node
        assert calls == [["srun", "--kill-on-bad-exit=1", ".venv/bin/gpicl", *train], ["gpicl", *train]]
        run_dir.mkdir(exist_ok=True)
        (run_dir / "config.toml").touch()


def test_an_array_job_shares_an_experiment(clone):
    arguments = (clone, "slurm_experiment.sbatch", "scaling", "paper", "--seeds", "2")
    returned, calls, _ = call(*arguments, **ONE_GPU, **ARRAY)
    assert returned == 0 and calls == [["gpicl", "experiment", "scaling", "--scale", "paper", "--part", "3/8", "--seeds", "2"]]
    code, calls, said = call(*arguments, **ONE_GPU, **{**ARRAY, "SLURM_ARRAY_TASK_MIN": "0"})  # 0-7 would leave a part out
    assert code == 2 and calls == [] and "usage" in said


def test_the_commands_that_the_page_shows_are_understood(clone):
    from gpicl_jax.arguments import parser

    page = (BIN / "README.md").read_text().replace("\\\n", "")
    for script in SLURM:
        (shown,) = [line for line in page.splitlines() if line.startswith("sbatch") and script in line]
        _, calls, _ = call(clone, script, *shlex.split(shown.split(script)[1]), **ONE_GPU, **ARRAY)
        options, rest = parser().parse_known_args(calls[-1][1:])
        assert options.command == calls[-1][1] and rest == (["--train.seed=1"] if options.command == "train" else [])


def test_a_tpu_pod_starts_on_all_workers_and_then_resumes(clone):
    run_dir = clone / "a run"
    for resume in ([], ["--resume"]):
        returned, calls, _ = call(
            clone, "tpu_pod.sh", "pod", "zone", "digits", str(run_dir), "--data.weights=[1, 3]", SEEN="tpu"
        )
        calls = [each for each in calls if each[0] == "gcloud"]
        assert returned == 0 and len(calls) == 2
        assert calls[1][:-1] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone", "--worker=all"]
        start, command = calls[1][-1].split(" && ")
        assert start == "--command=cd ~/gpicl_jax"
        train = [".venv/bin/gpicl", "train", "digits", "--run-dir", str(run_dir), "--distributed=auto"]
        assert shlex.split(command) == [*train, *resume, "--data.weights=[1, 3]"]
        run_dir.mkdir(exist_ok=True)
        (run_dir / "config.toml").touch()


@pytest.mark.parametrize("script", SCRIPTS)
def test_too_few_arguments_tell_the_usage(script, clone):
    code, calls, said = call(clone, script, "digits", **ONE_GPU)
    assert code == 2 and calls == [] and "usage" in said


NO_GPU = {"SLURM_GPUS_ON_NODE": "0", "SLURM_JOB_GPUS": "", "CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_GPUS_PER_NODE": "0"}
NODES = {
    "one granted": (ONE_GPU, None),
    "none granted, yet seen": ({**NO_GPU, "SEEN": "gpu"}, None),
    "CPUs asked for": ({**NO_GPU, "SEEN": "cpu", "JAX_PLATFORMS": "cpu"}, None),
    "CPUs not asked for": ({**NO_GPU, "SEEN": "cpu"}, "no GPU; add --gpus-per-node=1"),
    "nothing set": ({"SEEN": "cpu"}, "no GPU; add --gpus-per-node=1"),
    "granted, and CPUs asked for": ({**ONE_GPU, "SEEN": "cpu", "JAX_PLATFORMS": "cpu"}, "unset JAX_PLATFORMS=cpu"),
    "no jax for CUDA": (
        {**ONE_GPU, "SEEN": "cpu"},
        "SLURM_GPUS_ON_NODE=1, but JAX in .venv sees cpu, not gpu; run .venv/bin/pip",
    ),
    "GPU 0 of the job": ({"SLURM_JOB_GPUS": "0", "SEEN": "cpu"}, "SLURM_JOB_GPUS=0, but"),
    "GPUs of a kind": ({"SLURM_GPUS_PER_NODE": "a100:4", "SEEN": "cpu"}, "SLURM_GPUS_PER_NODE=a100:4, but"),
    "GPU 0 that CUDA sees": ({"CUDA_VISIBLE_DEVICES": "0", "SEEN": "cpu"}, "CUDA_VISIBLE_DEVICES=0, but"),
    "JAX fails": (ONE_GPU | {"SEEN": ""}, "sees nothing (exit code 0)"),
    "no such folder of data": ({**ONE_GPU, "TFDS_DATA_DIR": "/no/such"}, "TFDS_DATA_DIR=/no/such is no folder"),
    "folder of data": ({**ONE_GPU, "TFDS_DATA_DIR": "~"}, None),
}


@pytest.mark.parametrize("script", SLURM)
@pytest.mark.parametrize("node", NODES)
def test_a_slurm_job_whose_gpus_jax_does_not_see_ends_before_it_trains(node, script, clone):
    variables, wrong = NODES[node]
    code, calls, said = call(clone, script, *SLURM[script], **ARRAY, **variables)
    assert (code, bool(calls)) == ((2, False) if wrong else (0, True)), said
    assert (wrong or "") in said and (wrong is None) == (said == "")


def test_a_tpu_pod_with_a_worker_whose_tpu_jax_does_not_see_does_not_train(clone):
    code, calls, said = call(clone, "tpu_pod.sh", *SCRIPTS["tpu_pod.sh"], SEEN="cpu", CUDA_VISIBLE_DEVICES="0")
    assert code == 2 and calls == [] and "JAX in .venv sees cpu, not tpu; run .venv/bin/pip install -e . 'jax[tpu]'" in said


def test_a_jax_that_does_not_start_is_told(clone, monkeypatch):
    spec = util.spec_from_file_location("check_node", BIN / "check_node.py")
    check_node = util.module_from_spec(spec)
    spec.loader.exec_module(check_node)
    monkeypatch.setenv("PYTHONPATH", str(clone))
    (clone / "jax.py").write_text("raise RuntimeError('no backend')")
    assert check_node.backend() == "nothing (RuntimeError: no backend)"
    (clone / "jax.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(check_node, "PATIENCE", 0.1)
    assert check_node.backend() == "nothing within 0.1 s"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_without_the_package_is_named_with_the_command_that_installs(script, clone):
    (clone / ".venv" / "bin" / "gpicl").unlink()
    code, calls, said = call(clone, script, *SCRIPTS[script], **ONE_GPU, **ARRAY)
    where = "" if script == "tpu_pod.sh" else "the submit folder (SLURM_SUBMIT_DIR="
    assert code == 2 and calls == [] and f"no .venv/bin/gpicl in {where}{clone}" in said
    assert "pip install -e" in said and ("[tpu]" if "tpu" in script else "'.[cuda]'") in said


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([], ["-m", "not process and not compile"]),
        (["-k", "a name"], ["-m", "not process and not compile", "-k", "a name"]),
        (["--all"], ["-m", "not compile"]),
        (["--all", "-W", "error"], ["-m", "not compile", "-W", "error"]),
    ],
)
def test_whole_processes_are_tested_when_all_is_asked_for(given, taken, tmp_path):
    shutil.copytree(BIN, tmp_path / "bin")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(RECORD + "exit 3")
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "setup.cfg").touch()
    (tmp_path / ".venv" / ".installed-test").touch()
    done = subprocess.run([tmp_path / "bin" / "test", *given], capture_output=True, text=True)
    assert done.returncode == 3 and ("bin/test --all" in done.stderr) == ("--all" not in given)
    assert shlex.split((tmp_path / "calls").read_text()) == ["python", "-m", "pytest", *taken]


# `timeout` writes its limit down; Python writes the files of each part, far too much of them, and fails where FAILS says so. A
# line of Python it runs.
GPU_FAKES = {
    "timeout": '#!/bin/bash\necho "$3" >> limits\nexec $TIMEOUT "$1" "$2" "${LIMIT:-$3}" "${@:4}"',
    "python": f'#!/bin/bash\n[ "$1" != -c ] || exec {sys.executable} "$@"\n'
    + RECORD
    + """[[ -z $FAILS || $* != *$FAILS* ]] || eval "${HOW:-exit 1}"
seq 200000
run=$OUT/run
case "$*" in
  *" --json "*) echo '[{"platform": "'${SEEN:-gpu}'"}, {"ready": ['$READY'], "not_usable": ['$BROKEN']}]' > "${@: -1}" ;;
  *" train "*) mkdir -p "$run/checkpoints/20"; head -c 20M /dev/zero > "$run/checkpoints/20/state"
    [ -n "$UNTRAINED" ] || echo '{"step": 20}' > "$run/metrics.jsonl"; exit 143 ;;
  *" evaluate "*) touch "$run/summary.json" "$run/learning_curves.csv" "$run/learning_curves.png" ;;
esac
""",
}
PARTS = {"doctor": "doctor", "tests": "pytest", "tasks": "bench tasks", "step": "bench step", "population": "bench population"}
PARTS |= {"train": "train", "evaluate": "evaluate"}
LEFT = ["doctor.json", "learning_curves.csv", "log.txt", "metrics.jsonl", "population.json", "step.json", "summary.json"]
LEFT += ["tasks.json"]


def gpu_check(clone: Path, **variables: str) -> tuple[int, list[list[str]], dict[str, str], Path]:
    """The exit code, the calls of Python, the summary's lines by part, and the folder."""
    out = clone / "an out"
    for name, text in GPU_FAKES.items():
        (clone / name).write_text(text)
        (clone / name).chmod(0o755)
    (clone / "calls").write_text("")
    stand_ins = {"PATH": f"{clone}:{os.environ['PATH']}", "PYTHON": str(clone / "python"), "OUT": str(out)}
    environment = {**os.environ, **stand_ins, "TIMEOUT": shutil.which("timeout"), "FAILS": "", **variables}
    script = clone / "bin" / "gpu_check.sh"
    done = subprocess.run([script, out.name], cwd=clone, env=environment, capture_output=True, text=True)
    lines = done.stdout.rpartition("== summary\n")[2].splitlines()
    calls = [shlex.split(line) for line in (clone / "calls").read_text().splitlines()]
    return done.returncode, calls, {line.split()[1]: line.split()[0] for line in lines}, out


def test_a_gpu_is_checked_in_nine_minutes_and_eight_small_files(clone):
    from gpicl_jax.arguments import parser

    code, calls, summary, out = gpu_check(clone)
    assert code == 0 and summary == dict.fromkeys(PARTS, "passed") and list(summary) == list(PARTS)
    for part, call in zip(PARTS.values(), calls, strict=True):
        assert call[1:3] == ["-m", "pytest" if part == "pytest" else "gpicl_jax"] and part in " ".join(call)
        if part != "pytest":
            options, rest = parser().parse_known_args(call[3:])
            assert not rest or options.command == "train"
    assert {"-o", "addopts=", "no:xdist"} <= set(calls[1])
    assert all((BIN.parent / word).is_file() for word in calls[1] if word.startswith("tests/"))
    limits = [int(line) for line in (clone / "limits").read_text().split()]
    assert sum(limits[:5]) + 5 * 10 <= 480 - 60 and 290 <= limits[5] <= 300 and 480 + 10 + limits[6] + 10 <= 540
    assert sorted(path.name for path in out.iterdir()) == LEFT  # no checkpoint
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_fails_stops_no_other_and_is_told(part, clone):
    code, calls, summary, _ = gpu_check(clone, FAILS=f" {PARTS[part]} ")
    assert code == 1 and len(calls) == len(PARTS)
    failed = {part, "evaluate"} if part == "train" else {part}  # without a run there is nothing to evaluate
    assert summary == {each: "FAILED" if each in failed else "passed" for each in PARTS}


def test_a_part_that_hangs_is_ended_at_its_limit(clone):
    code, calls, summary, _ = gpu_check(clone, FAILS=" bench step ", HOW="exec /bin/sleep 60", LIMIT="3")
    assert code == 1 and len(calls) == len(PARTS) and [each for each in PARTS if summary[each] == "FAILED"] == ["step"]


def test_training_that_ends_before_its_first_numbers_has_failed(clone):
    code, _, summary, out = gpu_check(clone, UNTRAINED="1")
    assert code == 1 and summary["train"] == "FAILED" and not (out / "metrics.jsonl").exists()


def test_it_trains_on_mnist_where_that_is_ready(clone):
    digits, mnist, others = ["--data.train=digits", "--data.size=8"], '"mnist"', '"digits", "fashion_mnist"'
    for ready, broken, data in ((others, "", digits), (f"{others}, {mnist}", "", []), (others, mnist, digits)):
        _, calls, _, out = gpu_check(clone, READY=ready, BROKEN=broken)
        assert [word for word in calls[5] if word.startswith("--data")] == data
        shutil.rmtree(out)


def test_a_machine_whose_jax_uses_the_cpu_is_no_gpu_that_was_checked(clone):
    code, calls, summary, out = gpu_check(clone, SEEN="cpu")
    assert code == 1 and len(calls) == len(PARTS) and [each for each in PARTS if summary[each] == "FAILED"] == ["doctor"]
    assert "no GPU is checked: JAX uses the CPU" in (out / "log.txt").read_text()


def test_a_folder_with_files_is_not_written_to(clone):
    (clone / "an out").mkdir()
    (clone / "an out" / "mine").touch()
    code, calls, _, out = gpu_check(clone)
    assert code == 2 and calls == [] and [path.name for path in out.iterdir()] == ["mine"]
