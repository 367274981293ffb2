"""A dry run counts what the job really does, says what it needs, and leaves nothing behind. Mistakes are one line."""

import dataclasses
import functools
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pandas as pd
import pytest

from gpicl_jax import registry
from gpicl_jax.bench import dry_run
from gpicl_jax.bench.compile import Compiled, stand_in_tasks
from gpicl_jax.bench.counts import Cost
from gpicl_jax.bench.dry_run import totals, units_to_do
from gpicl_jax.bench.targets import find_target
from gpicl_jax.cli import main
from gpicl_jax.experiments.engine import make_experiment, run
from gpicl_jax.experiments.engine.run import Asked, run_experiment
from gpicl_jax.hyper import hyper_from
from gpicl_jax.training.population import Population
from gpicl_jax.training.program import make_program
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY, TINY_SETTINGS, tiny_config

SMALL = (*TINY_SETTINGS, "--data.train=digits", "--train.steps=5", "--train.validate_every=5")
RESULTS = Path(TINY).parents[1] / "results"
COMPILERS = {"h100": "jax_cuda12_plugin", "v5e": "libtpu"}


@pytest.fixture
def asked(tmp_path):
    return Asked(tmp_path / "runs", tmp_path / "results")


@pytest.fixture
def transition():
    """Returns an experiment of two units with two members each, which train for five steps."""
    return dataclasses.replace(make_experiment("transition", "smoke"), overrides=SMALL)


@pytest.fixture
def trained(monkeypatch):
    """Returns the list of what is trained from now on: members, and bytes of the arrays that a checkpoint holds."""
    found, train = [], run.train

    def counted(population, *rest):
        done = train(population, *rest)
        saved = jax.tree.leaves(population.saved(done.state.stored))
        found.append((population.size, sum(leaf.nbytes for leaf in saved)))
        return done

    monkeypatch.setattr(run, "train", counted)
    return found


@pytest.fixture
def compiled(monkeypatch):
    """Returns the list of configs that are compiled from now on. Each needs 1 GB, and 20 GB for a step of 36 ms."""
    found = []

    def compile_for(config, target, parallel):
        found.append(config)
        assert target.num_chips == 1
        flops = 0.036 * target.chip.float32
        return Compiled(target, 1e9, 20e9, flops, Cost(), {}, 0.0, "float32")

    monkeypatch.setattr(dry_run, "compile_for", compile_for)
    return found


def test_it_counts_what_is_trained_and_not_what_is_done(transition, asked, trained, tmp_path, capsys):
    units = list(units_to_do(transition, asked))
    assert not list(tmp_path.iterdir())
    assert run_experiment(transition, asked) == 0
    assert [(unit.members, unit.disk) for unit in units] == trained
    csv = asked.results_dir / "smoke.csv"
    rows = pd.read_csv(csv).drop_duplicates(["num_tasks", "seed"])
    total = totals(units)
    assert (total["members"], total["steps"], total["programs"]) == (len(rows), rows.steps.sum(), 1)
    assert dry_run.dry_experiment(transition, asked, None) == 0
    none = "total: 0 units of work, 0 members to train, 0 programs, 0 steps, 0.00 MB of checkpoints"
    assert capsys.readouterr().out.splitlines()[-1] == none
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(lines[:-3]) + "\n")
    assert [unit.members for unit in units_to_do(transition, asked)] == [1]
    assert [unit.members for unit in units_to_do(dataclasses.replace(transition, seeds=3), asked)] == [1, 2]


def test_parts_add_up(transition, asked):
    parts = [list(units_to_do(transition, dataclasses.replace(asked, part=(index, 2)))) for index in (1, 2)]
    assert [each for part in parts for each in part] == list(units_to_do(transition, asked)) and all(parts)


def traced(config):
    """The text of a config's training program, without addresses."""
    program, hyper = make_program(config), hyper_from(config)
    chunk = functools.partial(program.chunk, gradient=program.gradient)
    text = str(jax.make_jaxpr(chunk)(jax.eval_shape(program.init, hyper), stand_in_tasks(config), hyper))
    return re.sub(r"0x[0-9a-f]+", "", text)


def test_programs_are_as_many_as_different_traces(asked):
    scaling = make_experiment("scaling", "smoke")
    comparison = dataclasses.replace(make_experiment("comparison", "smoke"), seeds=2, learners=("lstm",))
    for experiment, cells in ((scaling, scaling.cells()), (comparison, [c for c in comparison.cells() if c.key[0] == "lstm"])):
        different = len({traced(cell.config) for cell in cells})
        assert different < len(cells) and totals(list(units_to_do(experiment, asked)))["programs"] == different


def test_cells_of_a_time_say_the_seconds_and_their_trials_come_first(asked, trained, capsys):
    overrides = (
        "--data.train=digits",
        "--tasks.length=10",
        "--tasks.tasks_per_step=4",
        "--train.chunk=2",
        "--eval.episodes=64",
    )
    sizes = {"seconds": 0.04, "datasets": ("digits",), "learners": ("mlp", "sgd"), "overrides": overrides}
    comparison = dataclasses.replace(make_experiment("comparison", "smoke"), **sizes)
    units = list(units_to_do(comparison, asked))
    assert run_experiment(comparison, asked) == 0
    assert [(unit.members, unit.disk) for unit in units if unit.members] == trained and len(trained) == 3
    assert [unit.seconds for unit in units if unit.members] == [0.01, 0.01, 0.04]
    assert sum(unit.scored for unit in units) == 3 and not totals(units)["steps"]  # sgd has nothing to learn
    more = dataclasses.replace(comparison, datasets=("digits", "random"))
    assert [(unit.members, unit.scored) for unit in units_to_do(more, asked)] == [(0, 1), (0, 1)]


@pytest.mark.parametrize("name", sorted(set(registry.names("experiment")) - {"features"}))
def test_every_experiment_ends_with_a_line_of_totals_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "train", lambda *_: pytest.fail("it trained"))
    assert main(["experiment", name, "--dry-run"]) == 0
    assert re.match(r"total: \d+ units? of work, \d+ members to train, ", capsys.readouterr().out.splitlines()[-1])
    assert not list(tmp_path.iterdir())


def test_a_program_is_compiled_once_and_a_device_holds_its_share_of_the_members(asked, compiled):
    scaling = dataclasses.replace(make_experiment("scaling", "smoke"), together=2)
    alone = list(units_to_do(scaling, asked, find_target("h100")))
    assert [unit.members for unit in alone] == [2, 1, 2, 1] and len(compiled) == 2
    (learner,) = {unit.disk for unit in alone[1:2]}
    assert [unit.memory for unit in alone[:2]] == [1e9 + learner + 40e9, 21e9]  # GiB 38 and 20 of 59
    assert [round(unit.hours / (40 * 1e-5), 6) for unit in alone[:2]] == [2.0, 1.0]
    assert all(unit.fits and unit.room == 3 for unit in alone)
    shared = list(units_to_do(scaling, asked, find_target("h100:2")))
    assert [unit.memory for unit in shared[:2]] == [21e9, 21e9] and round(shared[0].hours / (40 * 1e-5), 6) == 1.0


def test_what_does_not_fit_is_told_and_the_exit_code_is_1(tmp_path, monkeypatch, compiled, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "scaling", "--dry-run", "--for", "a6000"]) == 1  # 36 GiB, for three members of 20 GB
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("56.81 of 35.7 GiB, does not fit: at most 1 a device")
    assert "without compilation and evaluation" in "".join(said)
    assert said[-1].endswith("hours on a6000 by the roofline's estimate, 2 units do not fit")


def test_half_of_a_grid(asked):
    scaling, programs = make_experiment("scaling", "laptop"), {}
    half = scaling.with_options(permute=(0.0,))
    (whole, kept) = (totals(list(units_to_do(each, asked, None, programs))) for each in (scaling, half))
    assert 2 * kept["members"] == whole["members"] and kept["programs"] == whole["programs"] == 12
    assert len(half.cells()) == len(scaling.cells())  # one table holds both


@pytest.mark.parametrize("name", ["transition", "context-size", "equivariant-transition"])
def test_the_published_counts_are_those_of_today(name, asked):
    row = pd.read_csv(RESULTS / "dry_run.csv").set_index("command").loc[name]
    counts = totals(list(units_to_do(make_experiment(name, "paper"), asked)))
    assert all(row[each] == counts[each] for each in ("units", "members", "programs", "steps"))
    assert row.disk_gb == pytest.approx(counts["disk_gb"], rel=1e-5)


def test_a_row_that_the_published_table_lacks_is_added_and_the_table_is_always_whole(tmp_path):
    published = pd.read_csv(RESULTS / "dry_run.csv").set_index("command")
    shutil.copy(RESULTS / "dry_run.py", tmp_path)
    (csv := tmp_path / "dry_run.csv").write_text(published.drop("context-size").to_csv())
    with csv.open() as opened:
        whole = csv.read_text()
        runpy.run_path(str(tmp_path / "dry_run.py"), run_name="__main__")
        assert opened.read() == whole  # nothing was written into it
    pd.testing.assert_frame_equal(pd.read_csv(csv).set_index("command"), published, check_like=True)


def test_a_run_says_its_steps_episodes_and_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tiny_config()
    assert main(["train", TINY, "--dry-run", "--run-dir", "there"]) == 0
    said = capsys.readouterr().out
    each, steps = config.tasks.tasks_per_step * config.tasks.sequences_per_task, config.train.steps
    assert f"{steps:,} steps of {each:,} episodes, {steps * each:,} in all" in said and not list(tmp_path.iterdir())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(Trainer(config, devices=jax.devices()[:1]).state().stored))
    assert dry_run.state_bytes(config) == held and f"{2 * held / 1e6:.2f} MB" in said
    assert main(["train", TINY, "--dry-run", "--learner.name=sgd", "--model.name=mlp", "--train.steps=10"]) == 0
    assert "0 steps" in capsys.readouterr().out


def test_nothing_is_compiled_where_nothing_is_meta_learned(compiled, capsys):
    given = ("--dry-run", "--for", "h100", "--learner.name=sgd", "--model.name=mlp")
    assert main(["train", TINY, *given]) == 0 and not compiled
    assert capsys.readouterr().out.endswith("nothing to meta-learn: the meta-test alone\n")


def test_the_state_of_a_population_is_that_of_its_members():
    configs = [tiny_config(f"--train.seed={seed}") for seed in range(3)]
    population = Population(configs)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(population.saved(population.state().stored)))
    assert 3 * dry_run.state_bytes(configs[0]) == held


@pytest.mark.process
@pytest.mark.parametrize("target", COMPILERS)
def test_programs_are_compiled_for_a_device_that_is_not_there(target, tmp_path):
    """In processes of their own: this one has looked for devices, and JAX takes no compiler after that."""
    if not importlib.util.find_spec(COMPILERS[target]):
        pytest.skip(f"the compiler for {target} is not installed: {COMPILERS[target]}")

    def said(*command):
        command = [sys.executable, "-m", "gpicl_jax", *command, "--dry-run", "--for", target]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=tmp_path, env=environment).stdout

    as_a_user = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment = as_a_user | {"PYTHONPATH": str(Path(TINY).parents[1]), "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    lines = said("experiment", "transition").splitlines()
    assert all(re.search(r"hours, 0\.\d\d of \d+\.\d GiB$", line) for line in lines[:2])
    assert lines[-1].endswith(f"hours on {target} by the roofline's estimate, all units fit")
    assert "steps/s; train.steps take" in said("train", TINY) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--for", "h100"], "--for h100 needs --dry-run"),
        (["experiment", "scaling", "--for", "h100"], "--for h100 needs --dry-run"),
        (["train", "digits", "--dry-run", "--for", "h10"], "no target 'h10'; did you mean h100?"),
        (["experiment", "scaling", "--dry-run", "--for", "h10"], "no target 'h10'; did you mean h100?"),
        (["experiment", "scaling", "--dry-run", "--for", "h100", "v5e"], "unknown argument 'v5e'"),
        (["experiment", "scaling", "--dry-run", "--part", "9/9"], "fewer than 9; give fewer parts"),
        (
            ["experiment", "comparison", "--dry-run", "--learners", "lstn"],
            "no learner 'lstn' in experiment comparison; did you",
        ),
        (["experiment", "scaling", "--permute", "0.7", "--dry-run"], "no permute '0.7' in experiment scaling"),
        (
            ["experiment", "transition", "--permute", "0"],
            "--permute is of experiment scaling alone; leave it out for transition",
        ),
        (
            ["train", "digits", "--dry-run", "--resume", "--run-dir", "there"],
            "--dry-run counts a whole run; leave out --resume",
        ),
        (["train", "digits", "--dry-run", "--tasks.lenght=5"], "did you mean tasks.length?"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
