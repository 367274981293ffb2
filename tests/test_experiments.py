"""Grids: what is done is not done again, nothing is lost, parts make the same CSV as one run, mistakes are one line."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pandas as pd
import pytest

from gpicl_jax import registry
from gpicl_jax.arguments import experiments
from gpicl_jax.build import make_learner
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine import Cell, Experiment, make_experiment, members, run
from gpicl_jax.experiments.engine.files import redraw
from gpicl_jax.experiments.engine.run import Asked, run_experiment, timed
from gpicl_jax.experiments.engine.table import Table, units
from gpicl_jax.experiments.engine.timing import with_steps
from gpicl_jax.experiments.transition import Transition
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.settings import UserError
from gpicl_jax.training.signals import Interrupted
from tests.helpers import TINY_SETTINGS

SMALL = (*TINY_SETTINGS, "--data.train=digits", "--train.steps=5", "--train.validate_every=5")


def make_axes(size, num_tasks, seed):
    return f"--model.width={size}", f"--tasks.num_tasks={num_tasks}", f"--train.seed={seed}"


def make_cells(*axes, overrides=()):
    return [
        Cell(
            {"size": size, "num_tasks": num_tasks, "seed": seed},
            load_config(
                "digits",
                (*SMALL, f"--model.width={size}", f"--tasks.num_tasks={num_tasks}", f"--train.seed={seed}", *overrides),
            ),
        )
        for size, num_tasks, seed in axes
    ]


AXES = ("size", "num_tasks", "seed")
CELLS = make_cells((8, 1, 0), (8, 4, 0), (16, 1, 0), (8, 1, 1))


def add_all(table, cells=CELLS):
    table.add((cell, [{"tasks": kind, "last": 0.5} for kind in ("seen", "unseen")]) for cell in cells)


@pytest.fixture(autouse=True)
def nothing_is_imported_for_others(monkeypatch):
    registry.names("experiment")
    monkeypatch.setattr(registry, "_IMPORTED", [])
    monkeypatch.setitem(registry._KNOWN, "experiment", dict(registry._KNOWN["experiment"]))


@pytest.fixture
def asked(tmp_path):
    return Asked(tmp_path / "runs", tmp_path / "results")


@pytest.fixture
def transition():
    return small_transition()


def small_transition():
    """Returns an experiment of two units with two members each, which train for five steps."""
    return dataclasses.replace(make_experiment("transition", "smoke"), overrides=SMALL)


def small_part(folder, index):
    """Part `index` of two of it."""
    return run_experiment(small_transition(), Asked(Path(folder) / "runs", Path(folder) / "results", part=(index, 2)))


def killed_part(folder, index):
    """The same; its process dies when its members are trained and no row is in the CSV."""
    train = run.train

    def train_and_die(*arguments, **named):
        train(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    run.train = train_and_die
    small_part(folder, index)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Its folder when it has run without a break, and the sizes of the populations that it trained."""
    folder, sizes, train = tmp_path_factory.mktemp("whole"), [], run.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "train", lambda members, *rest, **kw: sizes.append(members.size) or train(members, *rest, **kw))
        assert run_experiment(small_transition(), Asked(folder / "runs", folder / "results")) == 0
    return folder, sizes


class OfCells(Transition):
    """A transition of given cells."""

    given_cells: tuple = ()

    def cells(self):
        return list(self.given_cells)


def of_cells(transition, cells):
    fields = {field.name: getattr(transition, field.name) for field in dataclasses.fields(transition)}
    return OfCells(**fields, given_cells=tuple(cells))


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_every_experiment_has_a_scale_for_all_and_configs_that_load(name):
    kind = registry.find("experiment", name)
    assert set(kind.scales) >= {"smoke", "laptop", "paper"} and kind.axes[-1] == "seed"
    for scale in kind.scales:
        experiment = make_experiment(name, scale)
        if name == "features":
            continue
        cells = experiment.cells()
        assert len({cell.key for cell in cells}) == len(cells)
        assert {tuple(cell.axes) for cell in cells} == {experiment.axes}
        assert len({cell.settings for cell in cells}) == len(cells)  # no axis is without effect


def test_help_names_the_experiments_that_are_registered_and_imports_nothing():
    assert list(experiments()) == registry.names("experiment")
    assert all(about.endswith(".") for about in experiments().values())
    code = "import sys; from gpicl_jax.arguments import parser; parser().parse_args(sys.argv[1:])"
    code = f"try:\n  {code}\nexcept SystemExit:\n  assert not {{'jax', 'matplotlib', 'pandas'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "experiment", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "  scaling " in done.stdout, done.stderr


def test_cells_that_differ_in_traced_numbers_share_a_program():
    assert [[cell.key for cell in unit] for unit in units(CELLS, 9)] == [
        [("8", "1", "0"), ("8", "4", "0"), ("8", "1", "1")],
        [("16", "1", "0")],
    ]
    assert [len(unit) for unit in units(CELLS, 2)] == [2, 1, 1]


def test_a_cell_is_done_when_all_its_rows_are_whole(tmp_path):
    table = Table(tmp_path / "grid.csv", AXES, CELLS)
    table.add([])
    add_all(table)
    assert set(table.rows()) == {cell.key for cell in CELLS}
    lines = table.path.read_text().splitlines()
    table.path.write_text("\n".join([*lines[:3], lines[3][:-2], '"', "\x00,,", *lines[4:-1], lines[-1][:-1]]))
    assert set(table.rows()) == {CELLS[0].key, CELLS[2].key}  # a line of CELLS[1] and one of CELLS[3] are cut short
    assert len(table.frame()) == 4
    add_all(table, [CELLS[1], CELLS[3]])
    assert table.path.read_text().splitlines() == lines


def test_new_columns_join_the_old(tmp_path):
    table = Table(tmp_path / "grid.csv", AXES, CELLS)
    table.add([(CELLS[0], [{"last": 0.25}])])
    table.add([(CELLS[1], [{"diverged": 5}])])
    frame = table.frame()
    assert list(frame.columns) == ["size", "num_tasks", "seed", "settings", "last", "diverged", "rows"]
    assert frame["last"].tolist()[0] == 0.25 and frame["last"].isna()[1] and frame.diverged[1] == 5


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (make_cells((8, 1, 0), (32, 1, 0)), r"it has size 8, num_tasks 4, seed 0, and this grid has size 8, 32; num_tasks 1;"),
        (make_cells(*((8, n, 0) for n in (1, 4)), (16, 1, 0), overrides=("--train.steps=10",)), "is of other settings: size 8"),
        ([dataclasses.replace(CELLS[0], axes={"width": 8, "seed": 0})], "its columns begin size, num_tasks, seed"),
    ],
)
def test_a_csv_of_another_grid_is_refused(tmp_path, cells, message):
    add_all(Table(tmp_path / "grid.csv", AXES, CELLS))
    with pytest.raises(UserError, match=message) as error:
        Table(tmp_path / "grid.csv", tuple(cells[0].axes), cells).check()
    assert "\n" not in str(error.value) and "--results-dir" in str(error.value)


def test_more_seeds_in_the_csv_are_welcome(tmp_path):
    add_all(Table(tmp_path / "grid.csv", AXES, CELLS))
    Table(tmp_path / "grid.csv", AXES, CELLS[:3]).check()


def test_what_is_done_is_not_done_again_and_a_broken_line_is(whole, transition, asked, tmp_path, monkeypatch, capsys):
    (folder, sizes), trained, train = whole, [], run.train
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(run, "train", lambda members, *rest, **kw: trained.append(members) or train(members, *rest, **kw))
    assert sizes == [2, 2]
    frame = pd.read_csv(asked.results_dir / "smoke.csv")
    assert len(frame) == 4 * 3 and set(frame.tasks) == {"seen", "unseen"} and set(frame.dataset) == {"digits", "random"}
    assert frame["last"].between(0, 1).all() and (frame.steps == 5).all()
    assert (asked.results_dir / "smoke.png").read_bytes().startswith(b"\x89PNG")
    assert run_experiment(transition, asked) == 0 and not trained
    lines = (asked.results_dir / "smoke.csv").read_text().splitlines()
    (asked.results_dir / "smoke.csv").write_text("\n".join([*lines[:2], lines[2][:20], *lines[3:]]))
    again = f"gpicl experiment transition --scale smoke --results-dir {asked.results_dir}"
    lost = f"left out: {frame.rows[0]}; to make them again: {again}\n"
    assert lost in redraw(transition, asked.results_dir)
    assert run_experiment(transition, asked) == 0 and [each.size for each in trained] == [1]
    assert "1 of 2 to do" in capsys.readouterr().out
    redone = pd.read_csv(asked.results_dir / "smoke.csv")
    pd.testing.assert_frame_equal(redone.drop(columns="seconds"), frame.drop(columns="seconds"), atol=1e-5)
    (asked.results_dir / "smoke.png").unlink()
    told = redraw(transition, asked.results_dir)
    assert (
        f"written: {asked.results_dir}/smoke.png" in told
        and "left out" not in told
        and (asked.results_dir / "smoke.png").is_file()
    )


def test_a_member_that_diverges_says_so_and_the_others_go_on(transition, asked, capsys):
    cells = dataclasses.replace(transition, seeds=1).cells()
    wild = load_config("digits_transformer", (*SMALL, "--tasks.num_tasks=1", "--optimizer.learning_rate=1e38"))
    cells[0] = dataclasses.replace(cells[0], config=dataclasses.replace(cells[1].config, optimizer=wild.optimizer))
    assert run_experiment(of_cells(transition, cells), asked) == 0
    assert "diverged by step 5" in capsys.readouterr().out
    frame = pd.read_csv(asked.results_dir / "smoke.csv")
    assert frame.diverged.tolist()[0] == 5 and frame["last"].isna().tolist() == [True, False, False, False]
    assert run_experiment(of_cells(transition, cells), asked) == 0  # it stays diverged
    assert "0 of 2 to do" in capsys.readouterr().out


def test_members_that_all_diverged_are_told_and_nothing_is_drawn(transition, asked, capsys):
    cells = transition.cells()[:1]
    wild = load_config("digits_transformer", (*SMALL, "--tasks.num_tasks=1", "--optimizer.learning_rate=1e38"))
    alone = of_cells(transition, [dataclasses.replace(cells[0], config=wild)])
    assert run_experiment(alone, asked) == 0
    assert "diverged: num_tasks 1, seed 0" in capsys.readouterr().out
    assert "diverged: num_tasks 1, seed 0" in redraw(alone, asked.results_dir)
    assert not (asked.results_dir / "smoke.png").exists()


def start(part, folder, index):
    code = f"from tests.test_experiments import {part}; {part}({str(folder)!r}, {index})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)


@pytest.mark.process
def test_parts_make_the_csv_of_one_run_though_one_is_killed(whole, tmp_path):
    """The rest of the killed part and the other part run at the same time."""
    assert start("killed_part", tmp_path, 2).wait() == -signal.SIGKILL
    assert list((tmp_path / "runs").rglob("metrics.jsonl")) and not (tmp_path / "results" / "smoke.csv").exists()
    with start("small_part", tmp_path, 1) as other:
        assert small_part(tmp_path, 2) == 0 and other.wait() == 0
    one, other = (pd.read_csv(folder / "results" / "smoke.csv") for folder in (whole[0], tmp_path))
    names = ["seconds", "commit"]
    pd.testing.assert_frame_equal(one.drop(columns=names), other.drop(columns=names), atol=0.02)
    assert len(one) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment", "scalin"], "no experiment 'scalin'; did you mean scaling?"),
        (["figure", "scalin"], "no experiment 'scalin'; did you mean scaling?"),
        (["experiment", "scaling", "--scale", "labtop"], "no scale 'labtop' of experiment scaling; did you mean laptop?"),
        (["experiment", "scaling", "--part", "3/2"], "--part 3/2; expected I/N"),
        (["experiment", "transition", "--part", "5/9"], "has 2 units of work, fewer than 5; give fewer parts"),
        (["experiment", "scaling", "--seeds", "0"], "--seeds 0; expected 1 or more"),
        (["experiment", "scaling", "--seconds", "5"], "--seconds is of experiment comparison alone"),
        (["experiment", "tasks", "--learners", "mlp"], "--learners is of experiment comparison alone; leave it out for tasks"),
        (["experiment", "plateau", "--datasets", "mnist"], "--datasets is of experiment comparison and features alone"),
        (["experiment", "scaling", "--results-dir", "/proc/none"], "cannot write to /proc/none"),
        (["figure", "plateau"], "gpicl experiment plateau --scale smoke"),
        (["figure", "plateau", "--scale", "larg"], "no scale 'larg' of experiment plateau"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_context_of_one_size_is_that_of_the_learner_that_is_given():
    """Programs are compiled once for each learner, episodes drawn once for each size; other learners are scored on the same."""
    sizes = ("--model.width=8", "--model.num_layers=1", "--eval.episodes=4", "--eval.sequences_per_task=2")
    config = load_config("omniglot/5way_1shot", ("--data.train=digits", "--data.size=8", *sizes))
    learner, test = make_learner(config), members.Test(config)
    member = members.Member(config, learner.init(jax.random.key(0)), learner, test)
    for _ in range(2):
        assert member.unseen("digits", num_context=10, length=30).num_context == 10
    assert test.evaluator.cache_info().misses == 1 and test.evaluator(dataclasses.replace(learner, num_context=10)).score
    assert test.evaluator.cache_info().misses == 1 and len(test.episodes) == 1
    other = dataclasses.replace(member, learner=dataclasses.replace(learner, inner_steps=1))
    assert other.unseen("digits").num_context == 5
    assert test.evaluator.cache_info().misses == 2 and len(test.episodes) == 2


MINE = """
from gpicl_jax.experiments.engine import Experiment, ends, markdown
from gpicl_jax.registry import register
from matplotlib.figure import Figure

@register("mine")
class Mine(Experiment):
    \"\"\"Accuracy by width.\"\"\"

    widths: tuple = ()

    axes = ("width", "seed")
    scales = {"smoke": {"widths": (8, 16), "datasets": ("digits",), "overrides": SMALL}}

    def table(self):
        return {(width,): ("digits", f"--model.width={width}") for width in self.widths}

    def score(self, trained):
        return [ends(trained.unseen("digits"))]

    def summary(self, frame):
        return markdown(["width", "last"], frame[["width", "last"]].values)

    def figure(self, frame):
        figure = Figure()
        figure.subplots().plot(frame.width, frame["last"])
        return figure
"""


def test_an_experiment_of_the_users_own_is_run_and_drawn(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(MINE.replace("SMALL", repr(SMALL)))
    (tmp_path / "broken.py").write_text(MINE.replace("SMALL", "()").replace("    axes =", "    names ="))
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "mine", "--import", "broken.py"]) == 2
    assert "gpicl_import_broken.Mine has no axes, which each experiment needs" in capsys.readouterr().err
    assert main(["experiment", "mine"]) == 2
    assert "no experiment 'mine'" in capsys.readouterr().err
    assert main(["experiment", "mine", "--import", "mine.py"]) == 0
    assert "| 16.0 | 0." in capsys.readouterr().out
    (tmp_path / "results/mine/smoke.png").unlink()
    registry._KNOWN["experiment"].pop("mine")
    registry._IMPORTED.clear()
    assert main(["figure", "mine", "--import", "mine.py"]) == 0
    assert (tmp_path / "results/mine/smoke.png").is_file()


def test_an_experiment_that_lacks_something_is_refused_when_it_is_registered():
    class Plain(Experiment):
        axes = ("seed",)

    with pytest.raises(UserError, match=r"cannot register 'plain': .*Plain has no scales, table, which each"):
        registry.register("plain")(Plain)


class Untrained(Experiment):
    """An experiment of two cells that trains nothing."""

    axes = ("width", "seed")
    trains = False
    scales = {"smoke": {}}  # noqa: RUF012

    def table(self):
        return {(width,): ("digits", f"--model.width={width}") for width in (8, 16)}

    def score(self, trained):
        return [{"last": 0.5, "loss": trained.config.model.width}]


UNTRAINED = {"name": "untrained", "scale": "smoke"}


def test_an_experiment_needs_no_summary_and_no_figure_and_names_no_file_that_is_not_there(asked, capsys):
    experiment = Untrained(**UNTRAINED)
    assert run_experiment(experiment, asked) == 0
    said = capsys.readouterr().out
    assert "| 8 | 0.500 | 8.000 | 1 |\n| 16 | 0.500 | 16.000 | 1 |" in said
    assert said.splitlines()[-1] == f"table and figure: {asked.results_dir}/smoke.csv"
    assert redraw(experiment, asked.results_dir).splitlines()[-1] == "written: nothing; there is no figure"


@pytest.mark.parametrize("method", ["figure", "files", "summary"])
def test_an_error_of_a_users_figure_or_summary_is_one_line_and_the_results_are_kept(method, asked, capsys):
    broken = type("Broken", (Untrained,), {method: lambda self, frame, *_: frame["lats"]})(**UNTRAINED)
    line = f"experiment untrained: its {method} raises KeyError: 'lats'; the results are kept in {asked.results_dir}/smoke.csv"
    again = f"gpicl figure untrained --scale smoke --results-dir {asked.results_dir}"
    with pytest.raises(UserError) if method == "summary" else contextlib.nullcontext() as error:
        assert run_experiment(broken, asked) == 1
    said = str(error.value) if error else capsys.readouterr().err.splitlines()[0]
    assert line in said and said.endswith(again)
    with pytest.raises(UserError, match=r"raises KeyError: 'lats'"):
        redraw(broken, asked.results_dir)
    assert len(pd.read_csv(asked.results_dir / "smoke.csv")) == 2


@pytest.mark.parametrize(
    ("table", "cells", "message"),
    [
        ({}, None, "experiment untrained has nothing to train at scale 'smoke': its table is empty"),
        ({(8, 2): ("digits",)}, None, r"its table has the key \(8, 2\); expected a tuple of values \(width\)"),
        ({8: ("digits",)}, None, r"its table has the key 8; expected a tuple of values \(width\)"),
        ({(8,): ("digits",), ("8",): ("digits",)}, None, "has two cells at width 8, seed 0"),
        ({}, CELLS, r"has a cell with the axes size, num_tasks, seed, but axes = \('width', 'seed'\); make them agree"),
    ],
)
def test_a_grid_that_is_none_is_refused_before_anything_is_trained(table, cells, message, asked):
    methods = {"table": lambda self: table} | ({"cells": lambda self: cells} if cells else {})
    with pytest.raises(UserError, match=message) as error:
        run_experiment(type("Wrong", (Untrained,), methods)(**UNTRAINED), asked)
    assert "\n" not in str(error.value) and not asked.results_dir.exists()


def test_the_last_axis_is_the_seed():
    registry.register("no-seed")(type("NoSeed", (Untrained,), {"axes": ("width",)}))
    with pytest.raises(UserError, match=r"experiment no-seed has axes = \('width',\); expected 'seed' as the last one"):
        make_experiment("no-seed", "smoke")


def test_results_of_other_settings_say_which(whole, transition, asked, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    other = dataclasses.replace(transition, overrides=(*SMALL, "--train.steps=10", "--model.width=12", "--data.dir=elsewhere"))
    there = r"num_tasks 1, seed 0 was made with model.width = 16 \(12 here\), train.steps = 5 \(10 here\); move that file away"
    with pytest.raises(UserError, match=there):
        run_experiment(other, asked)
    with pytest.raises(UserError, match=r"made with settings of digest \w{8} \(\w{8} here; no run in .*/new/smoke says which"):
        run_experiment(other, dataclasses.replace(asked, runs_dir=tmp_path / "new"))


def test_times_of_interrupted_commands_add_up_and_later_commands_add_none(tmp_path, monkeypatch):
    times = iter([10.0, 15.0, 100.0, 107.0])
    monkeypatch.setattr("gpicl_jax.experiments.engine.run.clock", lambda: next(times))
    folder = RunFolder(tmp_path)
    with pytest.raises(Interrupted), timed(folder, {}):
        raise Interrupted(15, 5)
    for _ in range(2):
        with timed(folder, folder.read_json("members.json")):
            pass
    assert folder.read_json("members.json") == {"processor_seconds": 12.0, "trained": True}
    with timed(folder, {"processor_seconds": 3.0}):  # of a version that said nothing about the end
        pass
    assert next(times, None) is None


def test_the_tasks_are_drawn(tmp_path):
    folders = ["--runs-dir", str(tmp_path / "runs"), "--results-dir", str(tmp_path)]
    assert main(["experiment", "tasks", "--scale", "smoke", *folders]) == 0
    assert (tmp_path / "smoke.png").is_file()


@pytest.mark.parametrize(("steps", "validations", "every"), [(1975, 40, 50), (25, 40, 25), (1000, 1, 1000), (1000, 3, 350)])
def test_a_cell_is_validated_no_more_often_than_asked(steps, validations, every):
    config = with_steps(load_config("comparison/laptop/lstm"), steps, validations)  # in chunks of 25
    assert (config.train.steps, config.train.validate_every) == (steps, every)
    assert -(-steps // every) <= validations
