"""`gpicl experiment comparison`: every learner under one protocol, one trainer and one evaluator.

A cell is a learner, an image size and a seed. Before its first cell a learner tries a few settings on validation tasks, each
for a part of the time that a cell gets; the best one is measured on test tasks. Cells are independent: one that fails does
not lose the others, and what is done is not done again.
"""

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.experiments.cell import Cell, CellRun, Result, seconds_per_step, with_budget
from gpicl_jax.experiments.report import write_results
from gpicl_jax.experiments.rows import ROWS
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.sections import Config, short_name
from gpicl_jax.settings import UserError, nearest, one_line
from gpicl_jax.training.divergence import Diverged
from gpicl_jax.training.meta_test import held_out_tasks

_TRIAL_SEED = 1000  # far from those of the cells


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
      configs: folder of the configs of the rows.
      sizes: of the images: height and width, channels.
      datasets: to meta-test on.
      seeds: meta-training seeds.
      seconds: that a cell may meta-train, by `cell.clock`, compilation apart; 0 is the number of steps of its config.
      trials: how many settings a learner may try, each for a quarter of `seconds`.
      overrides: settings that replace those of all configs.
    """

    configs: str
    sizes: tuple[tuple[int, int], ...]
    datasets: tuple[str, ...]
    seeds: int
    seconds: float = 0.0
    trials: int = 0
    overrides: tuple[str, ...] = ()


SCALES = {
    "smoke": Scale(
        configs="laptop",
        sizes=((8, 1),),
        datasets=("digits", "random"),
        seeds=1,
        seconds=2.0,
        trials=2,
        overrides=("--data.train=digits", "--eval.episodes=32", "--train.chunk=2", "--tasks.length=50"),
    ),
    "laptop": Scale(
        configs="laptop",
        sizes=((8, 1),),
        datasets=("mnist", "fashion_mnist", "kmnist", "random", "cifar10"),
        seeds=3,
        seconds=600.0,
        trials=3,
    ),
    "paper": Scale(
        configs="paper",
        sizes=((14, 1), (32, 3)),
        datasets=("mnist", "fashion_mnist", "kmnist", "random", "cifar10", "svhn_cropped"),
        seeds=3,
    ),
}


@dataclass(frozen=True)
class Comparison:
    """What was asked for.

    Attributes:
      scale: a name of `SCALES`.
      learners, datasets, seeds, seconds: replace those of the scale where given.
      part: (i, n): of every n cells the i-th, counted from 1.
      data_dir: folder of prepared TFDS sets.
      runs_dir: the cells' runs; each scale has a folder there.
      results_dir: tables and figure.
      command: for the record.
    """

    scale: str
    learners: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: int | None = None
    seconds: float | None = None
    part: tuple[int, int] = (1, 1)
    data_dir: str = ""
    runs_dir: Path = Path("runs/comparison")
    results_dir: Path = Path("results/comparison")
    command: tuple[str, ...] = ("gpicl",)

    @property
    def settings(self) -> Scale:
        """The scale with what was replaced.

        Raises:
          UserError: an unknown scale, or seconds for one that trains by steps.
        """
        if self.scale not in SCALES:
            raise UserError(f"no scale '{self.scale}'{nearest(self.scale, SCALES)}")
        scale = SCALES[self.scale]
        if self.seconds and not scale.seconds:
            raise UserError(
                f"--seconds {self.seconds:g}: scale '{self.scale}' trains for the steps of its configs; leave it out"
            )
        changes = {"datasets": self.datasets or scale.datasets, "seeds": self.seeds or scale.seeds}
        changes["seconds"] = self.seconds or scale.seconds
        return dataclasses.replace(scale, **changes)

    @property
    def rows(self) -> tuple[str, ...]:
        """The learners to compare.

        Raises:
          UserError: an unknown one.
        """
        for name in self.learners:
            if name not in ROWS:
                raise UserError(f"no learner '{name}' in the comparison{nearest(name, ROWS)}")
        return tuple(dict.fromkeys(self.learners)) or tuple(ROWS)


def run_comparison(asked: Comparison) -> int:
    """Runs the cells that are not done, then writes what is known; returns the exit code, 1 if a cell failed.

    Raises:
      UserError: unknown learner or scale, a part without cells, a dataset or folder that cannot be used; before anything is
        trained.
      Interrupted: by a signal; run the same command again to go on.
    """
    scale, rows = asked.settings, asked.rows
    index, parts = asked.part
    cells = [(row, size, seed) for seed in range(scale.seeds) for size in scale.sizes for row in rows][index - 1 :: parts]
    if not cells:
        raise UserError(f"--part {index}/{parts} has none of the cells, which are fewer than {index}; give fewer parts")
    _check(asked)
    failed = 0
    for number, (row, size, seed) in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {row}, {_folder(size)}, seed {seed}", flush=True)
        try:
            _run_cell(asked, row, size, seed)
        except (UserError, Diverged, MemoryError, OSError, jax.errors.JaxRuntimeError) as error:
            failed += 1
            print(f"gpicl: {row}, {_folder(size)}, seed {seed} failed: {one_line(error)}", file=sys.stderr, flush=True)
        jax.clear_caches()
        _write(asked)
    print(f"tables and figure: {asked.results_dir}/{asked.scale}.md, .csv, .png", flush=True)
    return int(failed > 0)


def _check(asked: Comparison) -> None:
    """Refuses now what a cell would refuse later: configs, datasets, folders."""
    scale = asked.settings
    for size in scale.sizes:
        configs = [_config(asked, row, size) for row in asked.rows]
        for split in ("train", "validation"):
            make_tasks(configs[0], split)
        held_out_tasks(configs[0], scale.datasets)
    for folder in (asked.runs_dir / asked.scale, asked.results_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --runs-dir or --results-dir") from None


def _run_cell(asked: Comparison, row: str, size: tuple[int, int], seed: int) -> None:
    scale = asked.settings
    trial = _choose_trial(asked, row, size) if scale.trials else {"overrides": [], "seconds_per_step": 0.0}
    overrides = (*trial["overrides"], f"--train.seed={seed}", f"--eval.seed={seed}")

    def begin(config: Config) -> tuple[Config, Result]:
        about = {"learner": row, "size": size[0], "channels": size[1], "seed": seed, "chosen": " ".join(trial["overrides"])}
        about |= {"budget_seconds": scale.seconds, "trials": scale.trials}
        return with_budget(config, scale.seconds, trial["seconds_per_step"]) if scale.seconds else config, about

    def score(run: CellRun, result: Result) -> Result:
        done = result.get("datasets", {})
        missing = tuple(name for name in scale.datasets if short_name(name) not in done)
        if not missing:
            return {}
        costs = {} if done else run.costs(trial["seconds_per_step"])
        return costs | {"datasets": done | run.meta_test(missing)}

    result = Cell(_path(asked, row, size) / f"seed-{seed}", list(asked.command)).complete(
        _config(asked, row, size, overrides), scale.seconds, begin, score
    )
    print("    " + ", ".join(f"{name} {each['last']:.3f}" for name, each in result["datasets"].items()), flush=True)


def _choose_trial(asked: Comparison, row: str, size: tuple[int, int]) -> Result:
    """The setting of the row that predicts validation tasks best, by accuracy over the last tenth.

    The first one, that of its config, stands where no other is better than guessing by four standard errors: on a plateau
    a choice would be noise.

    Raises:
      Diverged: all trials did.
    """
    scale, results = asked.settings, []
    for number, overrides in enumerate(ROWS[row][: scale.trials]):
        about = {"learner": row, "size": size[0], "channels": size[1], "overrides": overrides}
        results.append(_run_trial(asked, _path(asked, row, size) / f"trial-{number}", about))
    finite = [result for result in results if "validation_last" in result]
    if not finite:
        raise Diverged(f"all {len(results)} trials of {row} diverged: {results[0]['diverged']}")
    chance = 1 / _config(asked, row, size).tasks.classes_per_task
    learned = [each for each in finite if each["validation_last"] > chance + 4 * each["validation_standard_error"]]
    best = max(learned, key=lambda result: result["validation_last"]) if learned else finite[0]
    mark = "  ← chosen" if learned else "  ← kept: none is better than chance by four standard errors"
    for result in results:
        score = f"{result['validation_last']:.3f}" if result in finite else result["diverged"]
        print(f"    trial {' '.join(result['overrides'])}: {score}{mark if result is best else ''}", flush=True)
    return best


def _run_trial(asked: Comparison, path: Path, about: Result) -> Result:
    """The result of one trial; where its numbers left the finite ones, it says so under `diverged`, for good."""
    cell, scale, size = Cell(path, list(asked.command)), asked.settings, (about["size"], about["channels"])
    seeds, budget = (f"--train.seed={_TRIAL_SEED}", f"--eval.seed={_TRIAL_SEED}"), scale.seconds / 4

    def begin(config: Config) -> tuple[Config, Result]:
        per_step = seconds_per_step(config)
        return with_budget(config, budget, per_step), about | {"budget_seconds": budget, "seconds_per_step": per_step}

    if "diverged" in (result := cell.result()):
        return result
    try:
        config = _config(asked, about["learner"], size, (*about["overrides"], *seeds))
        return cell.complete(config, budget, begin, lambda run, result: {} if "validation_last" in result else run.validate())
    except Diverged as error:
        return cell.note({"diverged": one_line(error)})


def _config(asked: Comparison, row: str, size: tuple[int, int], overrides: tuple[str, ...] = ()) -> Config:
    images = (f"--data.size={size[0]}", f"--data.channels={size[1]}", f"--data.dir={asked.data_dir}")
    return load_config(f"comparison/{asked.settings.configs}/{row}", (*asked.settings.overrides, *images, *overrides))


def _folder(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[0]}x{size[1]}"


def _path(asked: Comparison, row: str, size: tuple[int, int]) -> Path:
    return asked.runs_dir / asked.scale / _folder(size) / row


def _results(asked: Comparison, kind: str) -> Iterator[Result]:
    """What all processes have done so far, in the order of the rows."""
    for size in SCALES[asked.scale].sizes:
        for row in ROWS:
            for path in sorted(_path(asked, row, size).glob(f"{kind}-*")):
                yield Cell(path, []).result()


def _write(asked: Comparison) -> None:
    with RunFolder(asked.runs_dir / asked.scale).lock(wait=True):  # parts write the same files
        cells = [cell for cell in _results(asked, "seed") if "datasets" in cell]
        trials = [trial for trial in _results(asked, "trial") if "validation_last" in trial or "diverged" in trial]
        write_results(asked.results_dir, asked.scale, cells, trials)
