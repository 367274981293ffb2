"""The comparison: chosen on validation tasks, measured on test tasks, nothing done twice, nothing lost."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gpicl_jax.config import load_config, packaged_configs
from gpicl_jax.experiments import comparison
from gpicl_jax.experiments.comparison import SCALES, Comparison, run_comparison
from gpicl_jax.experiments.report import summarise
from gpicl_jax.experiments.rows import ROWS
from gpicl_jax.settings import UserError

TINY = dataclasses.replace(
    SCALES["smoke"],
    sizes=((4, 1),),
    datasets=("digits",),
    trials=1,
    seconds=0.04,
    overrides=("--data.train=digits", "--tasks.length=10", "--tasks.tasks_per_step=4", "--train.chunk=2", "--eval.episodes=64"),
)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A comparison that takes seconds."""
    monkeypatch.setitem(SCALES, "smoke", TINY)
    return Comparison("smoke", ("sgd", "mlp"), runs_dir=tmp_path / "runs", results_dir=tmp_path / "results")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a comparison of one row."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        assert run_comparison(Comparison("smoke", ("mlp",), runs_dir=folder / "runs", results_dir=folder / "results")) == 0
    return folder


def read(asked, name="smoke.csv"):
    return pd.read_csv(asked.results_dir / name)


def test_every_row_has_its_configs_and_as_many_trials_as_the_others():
    names = packaged_configs()
    assert {name.split("/")[-1] for name in names if name.startswith("comparison/laptop/")} == set(ROWS)
    assert {name.split("/")[-1] for name in names if name.startswith("comparison/paper/")} == set(ROWS)
    assert {len(trials) for trials in ROWS.values()} == {SCALES["laptop"].trials}


def test_laptop_rows_differ_in_nothing_but_learner_and_optimizer():
    for row in ROWS:
        config = load_config(f"comparison/laptop/{row}")
        assert (config.data, config.tasks.length, config.tasks.num_tasks) == (
            load_config("comparison/laptop/transformer").data,
            100,
            "infinite",
        )
        assert config.tasks.permute_labels_prob == 1.0


def test_trials_are_chosen_on_validation_tasks_and_cells_measured_on_test_tasks(asked, monkeypatch):
    monkeypatch.setitem(
        SCALES, "smoke", dataclasses.replace(TINY, trials=2, overrides=(*TINY.overrides, "--eval.episodes=1024"))
    )
    monkeypatch.setitem(ROWS, "sgd", (("--learner.inner_rate=1e-7",), ("--learner.inner_rate=3e-2",)))
    splits = []
    scores = comparison.CellRun.scores
    monkeypatch.setattr(
        comparison.CellRun,
        "scores",
        lambda self, tasks, split: (
            splits.append((split, tasks.source.num_images, self.config.eval.seed)) or scores(self, tasks, split)
        ),
    )
    assert run_comparison(dataclasses.replace(asked, learners=("sgd",), seeds=2)) == 0
    assert splits == [("validation", 200, 1000), ("validation", 200, 1000), ("test", 397, 0), ("test", 397, 1)]
    trials, cells = read(asked, "smoke_trials.csv"), read(asked)
    assert trials.validation_last.argmax() == 1 and (cells.chosen == "--learner.inner_rate=3e-2").all()
    assert cells.seed.tolist() == [0, 1] and cells["last"][0] != cells["last"][1]


def test_what_is_done_is_not_done_again(done, asked, tmp_path):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    asked = dataclasses.replace(asked, learners=("mlp",))
    before = {path: path.stat().st_mtime_ns for path in asked.runs_dir.rglob("*") if path.name != ".lock"}
    first = (asked.results_dir / "smoke.csv").read_bytes()
    assert run_comparison(asked) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (asked.results_dir / "smoke.csv").read_bytes() == first
    # one more dataset: scored without training again, and the old scores stay
    assert run_comparison(dataclasses.replace(asked, datasets=("digits", "random"))) == 0
    trained = [path for path in before if path.name in ("metrics.jsonl", "run.json")]
    assert trained and all(path.stat().st_mtime_ns == before[path] for path in trained)
    frame = read(asked)
    assert frame.dataset.tolist() == ["digits", "random"]
    pd.testing.assert_frame_equal(frame[frame.dataset == "digits"].reset_index(drop=True)[["last"]], _first(first)[["last"]])


def _first(text):
    import io

    return pd.read_csv(io.BytesIO(text))


def test_one_that_fails_does_not_lose_the_others(asked, monkeypatch, capsys):
    monkeypatch.setitem(ROWS, "sgd", (("--learner.inner_optimizer=sgd", "--learner.inner_rate=3e38"),) * 2)
    assert run_comparison(asked) == 1
    assert read(asked).learner.tolist() == ["mlp"]
    said = capsys.readouterr()
    assert "the inner loop of sgd ran with learner.inner_rate = 3e+38; try a smaller one" in said.err
    assert "sgd, 4x4x1, seed 0 failed: all 1 trials of sgd diverged" in said.err


def test_a_cell_of_other_settings_is_refused_and_kept(done, asked, tmp_path, monkeypatch, capsys):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    kept = json.loads(next(asked.runs_dir.rglob("seed-0/cell.json")).read_text())
    monkeypatch.setitem(SCALES, "smoke", dataclasses.replace(TINY, overrides=(*TINY.overrides, "--model.width=9")))
    assert run_comparison(dataclasses.replace(asked, learners=("mlp",))) == 1
    assert "holds a run of other settings: model.width (128 there, 9 given)" in capsys.readouterr().err
    assert json.loads(next(asked.runs_dir.rglob("seed-0/cell.json")).read_text()) == kept


@pytest.mark.process
def test_two_processes_share_the_cells_and_write_one_table(tmp_path):
    """Two seeds of one row, so that both processes want the row's trials at once; each is trained once."""
    command = [sys.executable, "-m", "gpicl_jax", "experiment", "comparison", "--learners", "mlp", "--seeds", "2"]
    command += ["--datasets", "digits", "--seconds", "0.5"]
    command += ["--runs-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path / "results")]
    processes = [subprocess.Popen([*command, "--part", f"{part}/2"], stdout=subprocess.DEVNULL) for part in (1, 2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    frame = pd.read_csv(tmp_path / "results" / "smoke.csv")
    assert frame.learner.tolist() == ["mlp", "mlp"] and frame.seed.tolist() == [0, 1] and frame.episodes.tolist() == [32, 32]
    records = [json.loads(path.read_text())["commands"] for path in (tmp_path / "runs").rglob("run.json")]
    assert [len(commands) for commands in records] == [1] * (SCALES["smoke"].trials + 2)
    text = (tmp_path / "results" / "smoke.md").read_text()
    assert "| `mlp` (2) |" in text and "*paper: vsml*" not in text  # the paper has nothing on digits
    assert (tmp_path / "results" / "smoke.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "labtop"}, "no scale 'labtop'; did you mean laptop?"),
        ({"learners": ("transfromer",)}, "no learner 'transfromer' in the comparison; did you mean transformer?"),
        ({"datasets": ("digts",)}, "digts"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(asked, changes, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        run_comparison(dataclasses.replace(asked, **changes))
    assert not asked.runs_dir.exists() and not asked.results_dir.exists()


def test_intervals_are_students_over_seeds():
    cells = {"learner": "a", "size": 8, "channels": 1, "dataset": "x", "last_row": 0.5, "num_params": 1, "state_size": 1}
    costs = ("training_seconds", "wall_seconds", "train_episodes", "seconds_per_1000_episodes", "microseconds_per_episode")
    rows = [{**cells, **dict.fromkeys(costs, 1.0), "chosen": "", "seed": seed, "last": seed / 10} for seed in range(3)]
    table = summarise(pd.DataFrame(rows))
    np.testing.assert_allclose([table["mean"][0], table.interval[0]], [0.1, 4.302653 * 0.1 / np.sqrt(3)], rtol=1e-5)
