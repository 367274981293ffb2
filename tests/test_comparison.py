"""The comparison: chosen on validation tasks, measured on test tasks, nothing done twice, nothing lost."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gpicl_jax.config import load_config, packaged_configs
from gpicl_jax.experiments.comparison import Comparison, summarise
from gpicl_jax.experiments.comparison_rows import ROWS
from gpicl_jax.experiments.engine import make_experiment, members
from gpicl_jax.experiments.engine.files import redraw
from gpicl_jax.experiments.engine.run import Asked, run_experiment
from gpicl_jax.settings import UserError

TINY = dataclasses.replace(
    make_experiment("comparison", "smoke"),
    sizes=((4, 1),),
    datasets=("digits",),
    trials=1,
    seconds=0.04,
    learners=("mlp",),
    overrides=("--data.train=digits", "--tasks.length=10", "--tasks.tasks_per_step=4", "--train.chunk=2", "--eval.episodes=64"),
)


@pytest.fixture
def asked(tmp_path):
    return Asked(tmp_path / "runs", tmp_path / "results")


def read(asked, name="smoke.csv"):
    return pd.read_csv(asked.results_dir / name)


def test_every_row_has_its_configs_and_as_many_trials_as_the_others():
    names = packaged_configs()
    assert {name.split("/")[-1] for name in names if name.startswith("comparison/laptop/")} == set(ROWS)
    assert {name.split("/")[-1] for name in names if name.startswith("comparison/paper/")} == set(ROWS)
    assert {len(trials) for trials in ROWS.values()} == {Comparison.scales["laptop"]["trials"]}


def test_laptop_rows_differ_in_nothing_but_learner_and_optimizer():
    for row in ROWS:
        config = load_config(f"comparison/laptop/{row}")
        assert (config.data, config.tasks.length, config.tasks.num_tasks) == (
            load_config("comparison/laptop/transformer").data,
            100,
            "infinite",
        )
        assert config.tasks.permute_labels_prob == 1.0


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_a_row_that_meta_trains_nothing_claims_no_schedule_and_no_clipping(scale):
    optimizer = load_config(f"comparison/{scale}/sgd").optimizer
    assert (optimizer.schedule, optimizer.warmup_steps, optimizer.clip) == ("constant", 0, 0.0)


def test_trials_are_chosen_on_validation_tasks_and_cells_measured_on_test_tasks(asked, monkeypatch):
    monkeypatch.setitem(ROWS, "sgd", ("--learner.inner_rate=1e-7", "--learner.inner_rate=3e-2"))
    splits, drawn_in_parts = [], members.drawn_in_parts
    monkeypatch.setattr(
        members, "drawn_in_parts", lambda tasks, *rest: splits.append(tasks.source.num_images) or drawn_in_parts(tasks, *rest)
    )
    validation = members.Member.validation
    monkeypatch.setattr(members.Member, "validation", lambda self: splits.append("validation") or validation(self))
    overrides = (*TINY.overrides, "--eval.episodes=1024")
    experiment = dataclasses.replace(TINY, trials=2, seeds=2, learners=("sgd",), overrides=overrides)
    assert run_experiment(experiment, asked) == 0
    assert splits == ["validation", "validation", 397, 397]
    trials, cells = read(asked, "smoke_trials.csv"), read(asked)
    assert trials.validation_last.argmax() == 1 and (cells.chosen == "--learner.inner_rate=3e-2").all()
    assert trials.seed.tolist() == [1000, 1000] and (cells.steps == 0).all() and (cells.train_episodes == 0).all()
    assert cells.seed.tolist() == [0, 1] and cells["last"][0] != cells["last"][1]


def test_all_rows_are_tested_on_the_same_tasks_whatever_their_meta_training(monkeypatch):
    """At the paper's size some train with labels that are seldom permuted."""
    paper = dataclasses.replace(make_experiment("comparison", "paper"), datasets=("digits",))
    cells = [cell for cell in paper.cells() if cell.config.tasks.permute_labels_prob < 1]
    given = []
    monkeypatch.setattr(Comparison, "_costs", lambda *_: {})
    monkeypatch.setattr(
        members.Member, "unseen", lambda self, dataset, permute_labels_prob=None, **kw: given.append(permute_labels_prob)
    )
    for cell in cells[:2]:
        with pytest.raises(AttributeError):  # of the scores that are none
            paper.score(members.Member(cell.config, {}, test=members.Test(cell.config)))
    assert given == [1.0, 1.0]


def test_scores_of_a_run_that_is_gone_are_not_mixed_with_those_of_another(asked, capsys):
    assert run_experiment(TINY, asked) == 0
    for note in asked.runs_dir.rglob("members.json"):
        note.unlink()
    before = (asked.results_dir / "smoke.csv").read_bytes()
    assert run_experiment(TINY.with_options(datasets=("random",)), asked) == 1
    assert "lacks the run that they are of; give its --runs-dir" in capsys.readouterr().err
    assert (asked.results_dir / "smoke.csv").read_bytes() == before


def test_a_dataset_that_is_named_twice_counts_once():
    assert TINY.with_options(datasets=("random", "random")).datasets == ("random",)


def test_the_steps_fill_the_time_and_are_kept(asked, monkeypatch):
    """At 0.01 s a step; a command that goes on with a run does not measure again."""
    monkeypatch.setattr("gpicl_jax.experiments.comparison_trials.seconds_per_step", lambda config: 0.01)
    assert run_experiment(TINY, asked) == 0
    (notes,) = (json.loads(path.read_text())["notes"] for path in (asked.runs_dir / "smoke").glob("*/members.json"))
    assert notes == [{"chosen": ROWS["mlp"][0], "seconds_per_step": 0.01, "steps": 4}]
    assert read(asked).steps.tolist() == [4] and read(asked, "smoke_trials.csv").steps.tolist() == [2]  # a chunk at least
    (asked.results_dir / "smoke.csv").unlink()
    (asked.results_dir / "smoke_trials.csv").unlink()
    monkeypatch.setattr("gpicl_jax.experiments.comparison_trials.seconds_per_step", lambda config: 1e-3)
    assert run_experiment(TINY, asked) == 0 and read(asked).steps.tolist() == [4]


def test_what_is_done_is_not_done_again(asked, capsys):
    assert run_experiment(TINY, asked) == 0
    before = {path: path.stat().st_mtime_ns for path in asked.runs_dir.rglob("*") if path.name != ".lock"}
    first, frame = (asked.results_dir / "smoke.csv").read_bytes(), read(asked)
    assert run_experiment(TINY, asked) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (asked.results_dir / "smoke.csv").read_bytes() == first
    # one more dataset: scored without training again, and the old scores stay
    more = TINY.with_options(datasets=("random",))
    assert run_experiment(more, asked) == 0
    trained = [path for path in before if path.name == "config.toml" or "checkpoints" in str(path)]
    assert trained and all(path.stat().st_mtime_ns == before[path] for path in trained)
    both = read(asked)
    assert both.dataset.tolist() == ["digits", "random"] and both.rows.tolist() == [2, 2]
    columns = ["learner", "settings", "chosen", "training_seconds", "last", "steps", "seconds"]
    pd.testing.assert_frame_equal(both[columns][:1], frame[columns])
    assert both.steps.nunique() == both.training_seconds.nunique() == 1
    (asked.results_dir / "smoke.md").unlink()
    assert "smoke.md" in redraw(TINY, asked.results_dir) and "| random |" in (asked.results_dir / "smoke.md").read_text()


def test_one_that_fails_does_not_lose_the_others(asked, monkeypatch, capsys):
    monkeypatch.setitem(ROWS, "sgd", ("--learner.inner_rate=3e38",) * 2)
    monkeypatch.setattr(Comparison, "cell", _descending(Comparison.cell))
    assert run_experiment(TINY.with_options(learners=("sgd", "mlp")), asked) == 1
    assert read(asked).learner.tolist() == ["mlp"]
    said = capsys.readouterr()
    assert "the inner loop of sgd ran with learner.inner_rate = 3e+38; try a smaller one" in said.err
    assert "learner sgd, size 4, channels 1, budget_seconds 0.04, seed 0 failed: all 1 trials of sgd diverged" in said.err


def _descending(cell):
    """The online learner of `sgd` descends its gradient plainly, which can diverge."""
    plain = {"sgd": ("--learner.inner_optimizer=sgd",)}
    return lambda self, axes, config, *overrides: cell(self, axes, config, *plain.get(axes["learner"], ()), *overrides)


def test_a_cell_of_other_settings_is_refused_and_kept(asked):
    assert run_experiment(TINY, asked) == 0
    kept = (asked.results_dir / "smoke.csv").read_bytes()
    other = dataclasses.replace(TINY, overrides=(*TINY.overrides, "--tasks.length=11"))
    with pytest.raises(UserError, match="is of other settings: learner mlp, size 4"):
        run_experiment(other, asked)
    with pytest.raises(UserError, match=r"is of another grid: it has learner mlp.* budget_seconds 0\.04"):
        run_experiment(TINY.with_options(seconds=0.08), asked)
    assert (asked.results_dir / "smoke.csv").read_bytes() == kept


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
    records = [json.loads(path.read_text())["commands"] for path in (tmp_path / "runs").rglob("members.json")]
    assert [len(commands) for commands in records] == [1] * (make_experiment("comparison", "smoke").trials + 2)
    text = (tmp_path / "results" / "smoke.md").read_text()
    assert "| `mlp` (2) |" in text and "*paper: vsml*" not in text  # the paper has nothing on digits
    assert (tmp_path / "results" / "smoke.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_named_before_anything_is_trained(asked):
    with pytest.raises(UserError, match=r"no learner 'transfromer' in experiment comparison; did you mean transformer\?"):
        run_experiment(TINY.with_options(learners=("transfromer",)), asked)
    with pytest.raises(UserError, match="digts"):
        run_experiment(TINY.with_options(datasets=("digts",)), asked)
    with pytest.raises(UserError, match="--seconds 5: scale 'paper' trains for the steps of its configs; leave it out"):
        make_experiment("comparison", "paper").with_options(seconds=5.0)
    assert not asked.runs_dir.exists() and not asked.results_dir.exists()


def test_intervals_are_students_over_seeds():
    cells = {"learner": "a", "size": 8, "channels": 1, "dataset": "x", "last_row": 0.5, "num_params": 1, "state_size": 1}
    costs = ("training_seconds", "seconds", "train_episodes", "seconds_per_1000_episodes", "microseconds_per_episode")
    rows = [{**cells, **dict.fromkeys(costs, 1.0), "chosen": "", "seed": seed, "last": seed / 10} for seed in range(3)]
    table = summarise(pd.DataFrame(rows))
    np.testing.assert_allclose([table["mean"][0], table.interval[0]], [0.1, 4.302653 * 0.1 / np.sqrt(3)], rtol=1e-5)
