"""`gpicl experiment comparison`: every learner under one protocol, one trainer and one evaluator.

A cell is a learner, an image size and a seed. Before its first cell a learner tries a few settings on validation tasks, each
for a part of the time that a cell gets; the best one is measured on test tasks. Cells are independent: one that fails does
not lose the others, and what is done is not done again.
"""

import dataclasses
import fcntl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from gpicl_jax.config import load_config
from gpicl_jax.experiments.cell import Cell, Trained, seconds_per_step, with_budget
from gpicl_jax.experiments.report import write_results
from gpicl_jax.experiments.rows import ROWS
from gpicl_jax.sections import Config
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
      seconds: processor seconds that a cell may meta-train, compilation apart; 0 is the number of steps of its config.
      trials: how many settings a learner may try.
      trial_seconds: as `seconds`, for a trial.
      overrides: settings that replace those of all configs.
    """

    configs: str
    sizes: tuple[tuple[int, int], ...]
    datasets: tuple[str, ...]
    seeds: int
    seconds: float = 0.0
    trials: int = 0
    trial_seconds: float = 0.0
    overrides: tuple[str, ...] = ()


SCALES = {
    "smoke": Scale(
        configs="laptop",
        sizes=((8, 1),),
        datasets=("digits", "random"),
        seeds=1,
        seconds=2.0,
        trials=2,
        trial_seconds=0.5,
        overrides=("--data.train=digits", "--eval.episodes=32", "--train.chunk=2", "--tasks.length=50"),
    ),
    "laptop": Scale(
        configs="laptop",
        sizes=((8, 1),),
        datasets=("mnist", "fashion_mnist", "kmnist", "random", "cifar10"),
        seeds=3,
        seconds=180.0,
        trials=3,
        trial_seconds=45.0,
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
      learners, datasets, seeds: replace those of the scale where given.
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
    part: tuple[int, int] = (1, 1)
    data_dir: str = ""
    runs_dir: Path = Path("runs/comparison")
    results_dir: Path = Path("results/comparison")
    command: tuple[str, ...] = ("gpicl",)

    @property
    def settings(self) -> Scale:
        """The scale with what was replaced.

        Raises:
          UserError: an unknown scale.
        """
        if self.scale not in SCALES:
            raise UserError(f"no scale '{self.scale}'{nearest(self.scale, SCALES)}")
        scale = SCALES[self.scale]
        changes = {"datasets": self.datasets or scale.datasets, "seeds": self.seeds or scale.seeds}
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
      UserError: unknown learner or scale, a part out of range, a dataset that cannot be used; before anything is trained.
      Interrupted: by a signal; run the same command again to go on.
    """
    scale, rows = asked.settings, asked.rows
    index, parts = asked.part
    cells = [(row, size, seed) for seed in range(scale.seeds) for size in scale.sizes for row in rows]
    for size in scale.sizes:  # what a cell would refuse later is refused now
        held_out_tasks(_config(asked, rows[0], size), scale.datasets)
    failed = 0
    for number, (row, size, seed) in enumerate(cells[index - 1 :: parts], 1):
        print(f"[{number}/{len(cells[index - 1 :: parts])}] {row}, {_folder(size)}, seed {seed}", flush=True)
        try:
            _run_cell(asked, row, size, seed)
        except (UserError, Diverged, MemoryError, jax.errors.JaxRuntimeError) as error:
            failed += 1
            print(f"gpicl: {row}, {_folder(size)}, seed {seed} failed: {one_line(error)}", file=sys.stderr, flush=True)
        jax.clear_caches()
        _write(asked)
    return int(failed > 0)


def _run_cell(asked: Comparison, row: str, size: tuple[int, int], seed: int) -> None:
    scale = asked.settings
    trial = _choose_trial(asked, row, size) if scale.trials else {"overrides": [], "seconds_per_step": 0.0}
    overrides = (*trial["overrides"], f"--train.seed={seed}", f"--eval.seed={seed}")
    cell = Cell(_path(asked, row, size) / f"seed-{seed}", list(asked.command))
    missing = tuple(name for name in scale.datasets if name not in cell.result().get("datasets", {}))
    if not missing:
        return

    def score(trained: Trained) -> dict[str, Any]:
        datasets = cell.result().get("datasets", {}) | trained.meta_test(missing)
        about = {"learner": row, "size": size[0], "channels": size[1], "seed": seed, "chosen": " ".join(trial["overrides"])}
        budget = {"budget_seconds": scale.seconds, "trials": scale.trials, "trial_seconds": scale.trial_seconds}
        return about | budget | trained.costs(trial["seconds_per_step"]) | {"datasets": datasets}

    result = cell.complete(
        _config(asked, row, size, overrides),
        lambda config: with_budget(config, scale.seconds, trial["seconds_per_step"]) if scale.seconds else config,
        score,
    )
    print("    " + ", ".join(f"{name} {each['last']:.3f}" for name, each in result["datasets"].items()), flush=True)


def _choose_trial(asked: Comparison, row: str, size: tuple[int, int]) -> dict[str, Any]:
    """The setting of the row that predicts validation tasks best: accuracy over the last tenth to two digits, ties by loss."""
    scale, results = asked.settings, []
    for number, overrides in enumerate(ROWS[row][: scale.trials]):
        cell = Cell(_path(asked, row, size) / f"trial-{number}", list(asked.command))
        if not (result := cell.result()):
            seeds = (f"--train.seed={_TRIAL_SEED}", f"--eval.seed={_TRIAL_SEED}")
            config = _config(asked, row, size, (*overrides, *seeds))
            per_step = results[0]["seconds_per_step"] if results else seconds_per_step(config)
            about = {"learner": row, "size": size[0], "channels": size[1], "overrides": overrides, "seconds_per_step": per_step}
            try:
                result = cell.complete(
                    config,
                    lambda config, per_step=per_step: with_budget(config, scale.trial_seconds, per_step),
                    lambda trained, about=about: about | trained.validate() | {"steps": trained.step},
                )
            except Diverged as error:
                print(f"    trial {' '.join(overrides)}: {one_line(error)}", flush=True)
                continue
        results.append(result)
    if not results:
        raise Diverged(f"all {scale.trials} trials of {row} diverged; give it smaller rates in gpicl_jax/experiments/rows.py")
    best = max(results, key=lambda result: (round(result["validation_last"], 2), -result["validation_loss"]))
    for result in results:
        mark = "  ← chosen" if result is best else ""
        print(f"    trial {' '.join(result['overrides'])}: validation {result['validation_last']:.3f}{mark}", flush=True)
    return best


def _config(asked: Comparison, row: str, size: tuple[int, int], overrides: tuple[str, ...] = ()) -> Config:
    images = (f"--data.size={size[0]}", f"--data.channels={size[1]}", f"--data.dir={asked.data_dir}")
    return load_config(f"comparison/{asked.settings.configs}/{row}", (*asked.settings.overrides, *images, *overrides))


def _folder(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[0]}x{size[1]}"


def _path(asked: Comparison, row: str, size: tuple[int, int]) -> Path:
    return asked.runs_dir / asked.scale / _folder(size) / row


def _results(asked: Comparison, kind: str) -> Iterator[dict[str, Any]]:
    """What all processes have done so far, in the order of the rows."""
    for size in SCALES[asked.scale].sizes:
        for row in ROWS:
            for path in sorted(_path(asked, row, size).glob(f"{kind}-*")):
                if result := Cell(path, []).result():
                    yield result


def _write(asked: Comparison) -> None:
    asked.results_dir.mkdir(parents=True, exist_ok=True)
    with open(asked.runs_dir / asked.scale / ".lock", "w") as lock:  # parts write the same files
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_results(asked.results_dir, asked.scale, list(_results(asked, "seed")), list(_results(asked, "trial")))
