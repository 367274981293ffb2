"""The front door: real runs through `main`, real signals to a real process, every mistake in one line."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.evaluation import COLUMNS
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.runs.metrics import read_metrics
from gpicl_jax.sections import Config
from gpicl_jax.training import trainer
from gpicl_jax.training.loop import train
from gpicl_jax.training.meta_test import load_params
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY
from tests.prepared import png, write_prepared


def on_one_device(*arguments):
    """What the command says, given to the one device that it has in a process of its own."""
    found, said = jax.devices()[:1], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(jax, "devices", lambda: found)
        assert main(list(map(str, arguments))) == 0
    return said.getvalue()


def final_weights(run_dir: Path):
    return load_params(RunFolder.open(run_dir), load_config(str(run_dir / "config.toml")), "latest")


def assert_same_run(one: Path, other: Path):
    params, step = final_weights(one)
    other_params, other_step = final_weights(other)
    assert step == other_step == 40
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    timeless = [
        [{key: value for key, value in record.items() if "second" not in key} for record in read_metrics(run)]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A tiny run of 40 steps without a break, on one device, and what it says."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    return run_dir, on_one_device("train", TINY, "--tasks.num_tasks=64", "--run-dir", run_dir)


def test_a_run_leaves_all_that_it_promises(straight):
    run_dir, said = straight
    files = {"config.toml", "run.json", "metrics.jsonl", "checkpoints", "learning_curves.csv", "learning_curves.png"}
    assert files | {"summary.json"} <= {item.name for item in run_dir.iterdir()}
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 40
    for kind in ("seen_tasks", "unseen_tasks", "unseen_tasks_train_images", "identity_tasks"):
        ends = summary["datasets"]["digits"][kind]
        assert ends["episodes"] == 16 and 0 <= ends["transformer"]["first"] <= 1 and 0 <= ends["transformer"]["last"] <= 1
    assert 0 < summary["train_seconds"] < summary["total_seconds"] and summary["num_params"] > 1000
    curves = pd.read_csv(run_dir / "learning_curves.csv")
    unseen = curves[(curves.tasks == "unseen_tasks") & (curves.solver == "transformer")]
    assert list(unseen.position) == list(range(12))
    last = summary["datasets"]["digits"]["unseen_tasks"]["transformer"]["last"]
    np.testing.assert_allclose(last, unseen.accuracy.iloc[-1])
    assert set(curves.solver) == {"transformer", "1-NN", "ridge", "kernel ridge"}
    assert (run_dir / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"step 40/40  loss \d\.\d+, accuracy \d\.\d+ → \d\.\d+, [\d.]+ steps/s", said)
    assert f"python -m gpicl_jax evaluate {run_dir})" in said
    assert json.loads((run_dir / "run.json").read_text())["commands"][0]["command"][:3] == ["gpicl", "train", TINY]


@pytest.mark.process
def test_killed_after_20_steps_and_resumed_is_bit_for_bit_the_same(straight, tmp_path):
    """SIGKILL: nothing is said, nothing is saved at the last moment."""
    command = ["train", TINY, "--tasks.num_tasks=64", "--run-dir", str(tmp_path / "run")]
    code = (
        "import os, signal, sys\n"
        "from gpicl_jax.runs.checkpoint import Checkpoints\n"
        "from gpicl_jax.training.trainer import Trainer\n"
        "chunk, save = Trainer.chunk, Checkpoints.save\n"
        "def waited(self, *arguments):\n"
        "    save(self, *arguments)\n"
        "    self._checkpointer.wait()\n"
        "def killed(self, state):\n"
        "    if int(state.step) == 25:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return chunk(self, state)\n"
        "Checkpoints.save, Trainer.chunk = waited, killed\n"
        "from gpicl_jax.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    on_one_device(*command, "--resume")
    assert_same_run(straight[0], tmp_path / "run")


@pytest.mark.process
def test_sigterm_saves_says_how_to_resume_and_exits_143(straight, tmp_path):
    run_dir = tmp_path / "run with a space"
    command = [sys.executable, "-u", "-m", "gpicl_jax", "train", TINY, "--tasks.num_tasks=64"]
    command += ["--run-dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        for line in process.stdout:
            if line.startswith("compiled"):
                process.send_signal(signal.SIGTERM)
                break
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    stopped = re.search(r"stopped by SIGTERM at step (\d+); resume with: python -m gpicl_jax (.*)", rest)
    assert 0 < int(stopped[1]) < 40
    on_one_device(*shlex.split(stopped[2]))
    assert_same_run(straight[0], run_dir)


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, capsys, monkeypatch):
    """Weights are poisoned after the checkpoint of step 10; at 20, when the next is due, the run must end before it saves."""
    compile_chunk = trainer.compile_chunk

    def poisoned(*arguments, **options):
        chunk = compile_chunk(*arguments, **options)

        def run(state, tasks, hyper):
            bad = int(state.step) == 10
            state, metrics = chunk(state, tasks, hyper)
            return (state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params)) if bad else state), metrics

        return run

    monkeypatch.setattr(trainer, "compile_chunk", poisoned)
    run_dir = tmp_path / "run"
    assert main(["train", TINY, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err
    assert "became NaN or infinite between steps 15 and 20 (last good checkpoint: step 10)" in error and error.count("\n") == 1
    params, step = final_weights(run_dir)
    assert step == 10 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert not (run_dir / "summary.json").exists()


MLP = (TINY, "--model.name=mlp")


def test_a_learner_without_meta_parameters_is_not_trained_but_tested(tmp_path, capsys):
    run_dir = tmp_path / "run"
    sizes = ["--tasks.length=60", "--eval.episodes=64"]  # enough to tell learning from chance
    command = [
        "train",
        *MLP,
        *sizes,
        "--learner.name=sgd",
        "--learner.inner_rate=0.03",
        "--run-dir",
        str(run_dir),
    ]
    assert main(command) == 0
    assert "nothing to meta-learn; now the meta-test" in capsys.readouterr().out
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 0 and summary["num_params"] == 0
    assert summary["datasets"]["digits"]["unseen_tasks"]["sgd"]["last"] > 0.15
    assert read_metrics(run_dir) == [] and json.loads((run_dir / "run.json").read_text())["commands"]
    assert main(["evaluate", str(run_dir), "--datasets", "random"]) == 0


@pytest.mark.parametrize("learner", ["sgd", "finetune"])
def test_an_inner_loop_that_diverges_is_named_with_its_rate(learner, tmp_path, capsys):
    run_dir = tmp_path / "run"
    rate = ["--learner.inner_optimizer=sgd", "--learner.inner_rate=3e38"]
    assert main(["train", *MLP, f"--learner.name={learner}", *rate, "--run-dir", str(run_dir)]) == 1
    error = capsys.readouterr().err
    assert f"the inner loop of {learner} ran with learner.inner_rate = 3e+38; try a smaller one" in error
    assert error.splitlines()[-1].startswith("gpicl: stopped: ") and not (run_dir / "summary.json").exists()
    assert all(line.startswith("testing on ") for line in error.splitlines()[:-1])


def test_a_learner_of_contexts_is_reported_at_its_cuts(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", *MLP, "--learner.name=maml", "--run-dir", str(run_dir)]) == 0
    assert "accuracy – → 0." in capsys.readouterr().out  # the first row is always context
    records = [record for record in read_metrics(run_dir) if "loss" in record]
    assert all(record["accuracy_first"] is None and 0 <= record["accuracy_last"] <= 1 for record in records)
    curves = pd.read_csv(run_dir / "learning_curves.csv")
    unseen = curves[(curves.tasks == "unseen_tasks") & (curves.solver == "maml")]
    assert list(unseen.position) == [0, 1, 2, 5, 10, 11]


FEW_SHOT = ("omniglot/5way_1shot", "--data.train=digits", "--data.size=8", "--eval.episodes=64", "--model.width=8")
FEW_SHOT += ("--model.num_layers=1", "--train.steps=20", "--train.chunk=10", "--train.validate_every=20")


def test_few_shot_problems_are_scored_over_their_queries(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", *FEW_SHOT, "--run-dir", str(run_dir)]) == 0
    said = capsys.readouterr().out
    assert "accuracy – → 0." in said and "\n5               0." in said and "64 episodes" in said
    unseen = json.loads((run_dir / "summary.json").read_text())["datasets"]["digits"]["unseen_tasks"]
    curves = pd.read_csv(run_dir / "learning_curves.csv")
    curves = curves[curves.tasks == "unseen_tasks"]
    assert list(curves.position) == [5, 6, 7, 8, 9] and set(curves.solver) == {"maml"}
    assert unseen["maml"]["first"] is None and unseen["maml"]["last"] == pytest.approx(curves.accuracy.mean())
    assert "NaN" not in (run_dir / "metrics.jsonl").read_text()


def test_evaluate_repeats_and_enlarges_the_meta_test(straight, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(straight[0], run_dir)
    before = json.loads((run_dir / "summary.json").read_text())
    assert main(["evaluate", str(run_dir)]) == 0
    again = json.loads((run_dir / "summary.json").read_text())
    assert again["total_seconds"] == before["total_seconds"] and again["checkpoint"] == "latest"
    unseen = [each["datasets"]["digits"]["unseen_tasks"]["transformer"] for each in (again, before)]
    assert unseen[0] == pytest.approx(unseen[1], abs=1e-6)
    assert main(["evaluate", str(run_dir), "--episodes", "64", "--checkpoint", "best"]) == 0
    best = json.loads((run_dir / "summary.json").read_text())
    assert best["datasets"]["digits"]["unseen_tasks"]["episodes"] == 64 and best["checkpoint"] == "best"
    assert "best checkpoint: step" in capsys.readouterr().out


def test_evaluate_tests_on_other_datasets_and_files(straight, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(straight[0], run_dir)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", images=rng.integers(0, 256, (200, 12, 9), dtype=np.uint8), labels=np.arange(200) % 13)
    assert main(["evaluate", str(run_dir), "--datasets", "digits", "random", str(tmp_path / "mine.npz")]) == 0
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if line.startswith("tested")] == [
        "tested on digits",
        "tested on random",
        "tested on mine.npz",
    ]
    assert "testing on digits, unseen_tasks: 16 episodes …" in captured.err.splitlines()
    table = captured.out.split("accuracy on images without projection")[0].splitlines()
    assert [line.split()[0] for line in table[3:]] == ["digits", "random", "mine.npz"]
    curves = pd.read_csv(run_dir / "learning_curves.csv")
    assert list(curves.columns) == COLUMNS and set(curves.dataset) == {"digits", "random", "mine.npz"}
    assert {"unseen_tasks", "seen_tasks", "identity_tasks"} <= set(curves[curves.dataset == "mine.npz"].tasks)


def test_training_on_two_sets_at_once_resumes_and_reports_both(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 4
    images = np.clip(rng.normal(50, 20, (300, 9, 9)) + 50 * labels[:, None, None], 0, 255).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    data = f'--data.train=["digits", "{tmp_path}/mine.npz"]'
    run_dir, settings = tmp_path / "run", (data, "--data.weights=[1, 3]")
    half = load_config(TINY, (*settings, "--train.steps=20"))
    running = Trainer(half)
    state = train(running, RunFolder.create(run_dir, half), {}).state
    assert main(["train", TINY, *settings, "--run-dir", str(run_dir), "--resume"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"digits \(1,200 training images\), mine.npz \(2\d\d training images\) of 8×8×1", out)
    assert "mine.npz: images of 9×9×1 are resized to 8×8×1 (data.size, data.channels)\n" in out
    assert "mine.npz: 4 classes, so a task uses 4 of its 10 labels, and chance is 1/10 before its first example" in out
    assert "digits:" not in out.split("compiling …\ncompiled in")[0]
    for _ in range(4):
        state, _ = running.chunk(state)
    params, step = final_weights(run_dir)
    assert step == int(state.step) == 40
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state.params))  # as if it had not stopped at 20
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary["datasets"]) == {"digits", "mine.npz"}
    assert "unseen_tasks_train_images" in summary["datasets"]["mine.npz"]


def test_another_model_says_which_settings_of_the_config_it_keeps(tmp_path, capsys):
    wrong = ["--train.steps=20", "--resume", "--run-dir", str(tmp_path)]  # it ends before it trains
    assert main(["train", TINY, "--model.name=lstm", "--optimizer.name=adam", *wrong]) == 2
    kept = 'model.width = 16, model.layout = "shifted", model.label_scale = 3.1623'
    assert capsys.readouterr().out == f"model.name=lstm keeps {kept} of {TINY}\n"
    all_given = ["--model.width=16", "--model.layout=paired", "--model.label_scale=1"]
    assert main(["train", TINY, "--model.name=lstm", *all_given, *wrong]) == 2
    assert main(["train", TINY, "--model.name=transformer", "--model.width=8", *wrong]) == 2
    assert capsys.readouterr().out == ""


def test_steps_may_be_added_on_resume_and_nothing_else(straight, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(straight[0], run_dir)
    resume = ["--tasks.num_tasks=64", "--run-dir", str(run_dir), "--resume"]
    assert main(["train", TINY, *resume, "--model.width=32", "--optimizer.name=sgd"]) == 2
    error = capsys.readouterr().err
    assert "model.width (16 there, 32 given)" in error and "optimizer.name ('adam' there, 'sgd' given)" in error
    assert main(["train", TINY, *resume, "--tasks.active_classes=2"]) == 2
    assert "tasks.active_classes ('all' there, 2 given)" in capsys.readouterr().err
    assert main(["train", TINY, *resume, "--train.steps=20"]) == 2
    assert "already at step 40" in capsys.readouterr().err
    assert load_config(str(run_dir / "config.toml")).train.steps == 40
    assert main(["train", TINY, *resume, "--train.steps=50"]) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 50 and summary["total_seconds"] > summary["train_seconds"]
    assert len(json.loads((run_dir / "run.json").read_text())["commands"]) == 2
    assert load_config(str(run_dir / "config.toml")).train.steps == 50  # the longer run is now the run


def test_version_help_and_datasets(capsys):
    for arguments in (
        ["--version"],
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["experiment", "--help"],
        ["bench", "--help"],
        ["doctor", "--help"],
        ["export", "--help"],
        ["datasets", "--help"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        out = capsys.readouterr().out
        assert "--version" in arguments or "example" in out
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert "digits           ready: 8×8×1" in out and "mnist " in out and "random" in out


BAD_INPUT = {
    "no command": ([], "COMMAND"),
    "unknown command": (["trian", "digits"], "invalid choice: 'trian'"),
    "unknown flag": (["train", "digits_transformer", "--rundir=x"], "--rundir"),
    "unknown argument": (["evaluate", "RUN", "--tasks.length=3"], "--tasks.length"),
    "unknown key": (["train", "digits_transformer", "--tasks.lenght=50"], "did you mean tasks.length?"),
    "wrong type": (["train", "digits_transformer", "--train.steps=long"], "expected int"),
    "value apart": (["train", "digits_transformer", "--train.steps", "50"], "--section.key=value"),
    "num_tasks below 1": (["train", "digits_transformer", "--tasks.num_tasks=0"], "at least 1"),
    "episode too long": (
        ["train", "digits_transformer", "--tasks.length=201"],
        "validation images: tasks.length = 201, but",
    ),
    "batch not divisible by devices": (
        ["train", "digits_transformer", "--tasks.tasks_per_step=6"],
        "not divisible by the 4 devices",
    ),
    "misspelt config": (["train", "digts"], "no config 'digts' in the package (a path ends in .toml); did you mean digits?"),
    "missing config": (["train", "TMP/none.toml"], "no config file"),
    "empty config": (["train", "TMP/empty.toml"], "holds no setting"),
    "config not TOML": (["train", "TMP/broken.toml"], "is not TOML"),
    "config is a folder": (["train", "TMP"], "cannot read config"),
    "folder of another run": (["train", "digits_transformer", "--run-dir", "RUN"], "already holds a run"),
    "folder with other files": (["train", "digits_transformer", "--run-dir", "TMP"], "is not empty and holds no run"),
    "folder name too long": (["train", "digits_transformer", "--run-dir", "TMP/" + "x" * 300], "cannot write to run folder"),
    "unwritable folder": (["train", "digits_transformer", "--run-dir", "TMP/empty.toml/run"], "cannot write to run folder"),
    "resume without a run": (["train", "digits_transformer", "--run-dir", "TMP/new", "--resume"], "no run in"),
    "resume without a folder": (["train", "digits_transformer", "--resume"], "--run-dir"),
    "parallel": (["train", "digits_transformer", "--parallel=pmpa"], "invalid choice: 'pmpa'"),
    "parts of a batch": (["train", "digits_transformer", "--train.accumulate=3"], "not a multiple of train.accumulate = 3"),
    "parts and devices": (
        ["train", "digits_transformer", "--train.accumulate=16"],
        "the 4 devices × train.accumulate = 16; give a multiple of 64",
    ),
    "blocks that are none": (
        ["train", "digits_transformer", "--model.name=lstm", "--model.remat=true"],
        "model.name = 'lstm' has no setting model.remat",
    ),
    "steps to trace that are none": (
        ["train", "digits_transformer", "--profile-steps", "100"],
        "--profile-steps 100; expected A:B",
    ),
    "steps to trace backwards": (["train", "digits_transformer", "--profile-steps", "20:10"], "expected A:B with 0 ≤ A < B"),
    "steps to trace beyond the end": (["train", "digits_transformer", "--profile-steps", "0:100000"], "train.steps = 800"),
    "steps to trace that are over": (
        ["train", "RUN/config.toml", "--run-dir", "RUN", "--resume", "--profile-steps=1:2"],
        "past --p",
    ),
    "compile cache that is a file": (
        ["train", "digits_transformer", "--compile-cache", "TMP/empty.toml"],
        "cannot write to --compile-cache",
    ),
    "unknown dataset": (["train", "digits_transformer", "--data.train=mnits", "--data.dir=TMP"], "did you mean mnist?"),
    "dataset that is missing": (["train", "digits_transformer", "--data.train=svhn_cropped", "--data.dir=TMP"], "svhn_cropped"),
    "no such file": (["train", "digits_transformer", "--data.train=TMP/none.npz"], "no file or folder"),
    "no such split": (["train", "digits_transformer", "--data.train=kana", "--data.dir=TMP"], "has no split 'train' in"),
    "one file twice": (
        ["train", "digits_transformer", '--data.train=["TMP/kana.npz", "TMP/../kana.npz"]'],
        "of different names",
    ),
    "test images too few": (
        ["train", "digits_transformer", "--data.train=TMP/few.npz", "--run-dir", "TMP/new"],
        "'few.npz' has",
    ),
    "file without labels": (["train", "digits_transformer", "--data.train=TMP/unlabelled.npz"], "no array 'labels'"),
    "file of Python objects": (["train", "digits_transformer", "--data.train=TMP/objects.npz"], "holds Python objects"),
    "folder of one class": (["train", "digits_transformer", "--data.train=TMP/one_class"], "has only 'a' of the class folders"),
    "images of mixed sizes": (["evaluate", "RUN", "--datasets", "TMP/mixed"], "mixes image sizes"),
    "labels out of range": (["evaluate", "RUN", "--datasets", "wrong", "--data.dir", "TMP"], "run from 1 to 10"),
    "damaged records": (["evaluate", "RUN", "--datasets", "damaged", "--data.dir", "TMP"], "no readable image"),
    "unknown dataset to test": (["evaluate", "RUN", "--datasets", "mnits", "--data.dir", "TMP"], "did you mean mnist?"),
    "zeros in a hidden layer": (
        ["train", "digits", "--learner.name=sgd", "--model.name=mlp", "--learner.zeros=true"],
        "layer of zeros",
    ),
    "balanced without a context": (["train", "digits", "--tasks.balanced=true"], "gives labels away"),
    "a class too small to balance": (
        ["train", "digits", "--tasks.length=200", "--tasks.num_context=100", "--tasks.balanced=true", "--tasks.entries=normal"],
        "balanced episode",
    ),
    "length that cannot be balanced": (
        ["train", "digits", "--tasks.length=99", "--tasks.num_context=50", "--tasks.balanced=true", "--tasks.entries=normal"],
        "not a multiple",
    ),
    "weights that do not fit": (["train", "digits_transformer", "--data.weights=[1.0, 2.0]"], "2 numbers for 1 base datasets"),
    "layout of another model": (
        ["train", "digits_transformer", "--model.name=encoder_decoder", "--model.layout=paired"],
        "model.name = 'encoder_decoder' has no setting model.layout",
    ),
    "learner without its model": (
        ["train", "digits_transformer", "--learner.name=maml"],
        "or model.name = 'few_shot_conv' or 'mlp'",
    ),
    "convolutions in context": (["train", "digits_transformer", "--model.name=few_shot_conv"], "cannot learn in context"),
    "queries in order": (["train", "digits_transformer", "--tasks.num_context=50"], "learn from the context alone"),
    "no query left": (["train", *FEW_SHOT, "--tasks.num_context=10"], "leaves no query of tasks.length = 10"),
    "statistics of no context": (["train", *FEW_SHOT, "--tasks.num_context=0"], "needs a context of one size"),
    "batches above the context": (
        ["train", *FEW_SHOT, "--learner.inner_batch=8"],
        "inner_batch = 8, but tasks.num_context = 5",
    ),
    "more ways than classes": (
        ["train", *FEW_SHOT, "--tasks.classes_per_task=11", "--tasks.num_context=11", "--tasks.length=22"],
        "has images of 10 classes; lower tasks.classes_per_task = 11",
    ),
    "no Omniglot": (["train", "omniglot/5way_1shot", "--data.dir=TMP"], "tfds build omniglot"),
    "unknown learner": (["train", "digits_transformer", "--learner.name=mamml"], "did you mean maml?"),
    "unknown experiment": (["experiment", "comparisn"], "no experiment 'comparisn'; did you mean comparison?"),
    "unknown scale": (["experiment", "comparison", "--scale", "labtop"], "did you mean laptop?"),
    "unknown row": (["experiment", "comparison", "--learners", "mamml"], "did you mean maml?"),
    "part out of range": (["experiment", "comparison", "--part", "3/2"], "--part 3/2; expected I/N with 1 ≤ I ≤ N"),
    "part that is none": (["experiment", "comparison", "--part", "half"], "--part half; expected I/N"),
    "no seeds": (["experiment", "comparison", "--seeds", "0"], "--seeds 0; expected 1 or more"),
    "dataset of an experiment": (
        [
            "experiment",
            "comparison",
            "--datasets",
            "mnits",
            "--data.dir",
            "TMP",
            "--runs-dir",
            "TMP/a",
            "--results-dir",
            "TMP/b",
        ],
        "did you mean mnist?",
    ),
    "evaluate without a run": (["evaluate", "TMP/new"], "no run in"),
    "evaluate without a checkpoint": (["evaluate", "TMP/bare"], "no checkpoint in"),
    "episodes that do not fit": (["evaluate", "RUN", "--episodes", "7"], "not a multiple"),
    "episodes below the least": (["evaluate", "RUN", "--episodes", "-4"], "at least 2"),
}


def bad_datasets(folder: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.savez(folder / "unlabelled.npz", images=np.stack([image, image]))
    many = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    np.savez(folder / "few.npz", images=many, labels=np.arange(300) % 2)
    np.savez(folder / "objects.npz", images=np.stack([image, image]), labels=np.array(["a", None], object))
    for path, size in {"one_class/a/0.png": 8, "mixed/a/0.png": 8, "mixed/b/0.png": 7}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(png(image[:size]))
    for name, records in {
        "kana": [(png(image), 0), (png(image), 1)],
        "wrong": [(png(image), 1), (png(image), 10)],
        "damaged": [(png(image), 0), (png(image)[:40], 1)],
    }.items():
        write_prepared(folder, name, {"test": records}, file_format="tfrecord")


@pytest.mark.parametrize("name", BAD_INPUT)
def test_a_mistake_is_one_line_and_exit_code_2(name, straight, tmp_path, tmp_path_factory, capsys, monkeypatch):
    arguments, message = BAD_INPUT[name]
    (tmp_path / "empty.toml").write_text("# nothing\n")
    (tmp_path / "broken.toml").write_text("[tasks\nlength = ")
    RunFolder.create(tmp_path / "bare", Config())
    bad_datasets(tmp_path)
    monkeypatch.setenv("GPICL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # without TensorFlow: nothing is downloaded
    before = sorted(str(path) for path in tmp_path.rglob("*") if path.name != ".lock")
    arguments = [each.replace("TMP", str(tmp_path)).replace("RUN", str(straight[0])) for each in arguments]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("gpicl: error: ")
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.name != ".lock") == before


@pytest.mark.parametrize("argument", ["datasets", "--help"])
def test_a_reader_that_goes_away_is_no_error(argument):
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "gpicl_jax", argument]
    gone = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (141, "")


def test_no_output_at_all_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["datasets"]) == 0


def test_a_run_in_use_is_left_alone(straight, capsys):
    with RunFolder.open(straight[0]).lock():
        assert main(["evaluate", str(straight[0])]) == 2
        assert main(["train", str(straight[0] / "config.toml"), "--run-dir", str(straight[0]), "--resume"]) == 2
    assert capsys.readouterr().err.count("in use by another process") == 2
