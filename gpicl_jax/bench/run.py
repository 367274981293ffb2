"""`gpicl bench`: measures, prints, writes."""

import importlib
from pathlib import Path

from gpicl_jax.bench.asked import Asked
from gpicl_jax.bench.machine import describe
from gpicl_jax.bench.rows import text, write_json, write_results
from gpicl_jax.config import load_config
from gpicl_jax.settings import UserError

_SIZES = ("data.size", "data.channels", "tasks.tasks_per_step", "tasks.length", "tasks.classes_per_task")
# Of each benchmark: the settings, or whole sections of them, that it follows.
_TAKES = {
    "tasks": (*_SIZES, "tasks.sequences_per_task"),
    "step": (*_SIZES, "model", "optimizer", "train.chunk"),
    "population": (*_SIZES, "model", "optimizer", "train.chunk", "train.steps"),
    "maml": (*_SIZES, "model", "learner", "optimizer"),
    "study": (*_SIZES, "model", "learner", "optimizer", "train.accumulate"),
    "inference": (*_SIZES, "model", "learner"),
    "features": (*_SIZES[2:], "model", "optimizer", "train.chunk", "train.accumulate"),
}


def run_bench(
    name: str, overrides: tuple[str, ...], asked: Asked, command: list[str], *, json_file: Path | None, results: Path | None
) -> int:
    """Measures one benchmark and prints its tables; returns the exit code.

    Args:
      name: a module of this room with a `measure(config, asked)`; its sizes are those of the package's config `bench/NAME`.
      overrides: of that config, `--section.key=value`.
      asked: what to compare with.
      command: for the record.
      json_file: where to write all that was found.
      results: folder whose `NAME.csv` and figure are brought up to date.

    Raises:
      UserError: a setting or an option is wrong, or a file cannot be written; said before anything is measured.
    """
    asked.check()
    config = load_config(f"bench/{name}", overrides)
    _check_taken(name, overrides)
    _check_writable(json_file, "--json")
    _check_writable(results and results / f"{name}.csv", "--results-dir")
    record = describe(command)
    print(f"{record['devices'][0]}, {record['threads']} threads, jax {record['packages']['jax']}", end="")
    print(f", torch {record['packages']['torch']}" if asked.torch else "", end="")
    print(f", load average {record['load_average']:.1f}; medians of {asked.repeats} rounds (10th–90th percentile)", flush=True)
    rows = importlib.import_module(f"gpicl_jax.bench.{name}").measure(config, asked)
    if json_file:
        write_json(json_file, name, record, rows)
    if results:
        write_results(results, name, record, rows)
    print(text(rows))
    return 0


def _check_taken(name: str, overrides: tuple[str, ...]) -> None:
    """Refuses what would change nothing."""
    for override in overrides:
        setting = override[2:].split("=")[0]
        if not {setting, setting.split(".")[0]} & set(_TAKES[name]):
            raise UserError(
                f"{override} changes nothing of gpicl bench {name}, which draws random images; "
                f"it takes {', '.join(_TAKES[name])}"
            )


def _check_writable(file: Path | None, option: str) -> None:
    if file is None:
        return
    if file.is_dir():
        raise UserError(f"{option} {file} is a folder; expected the name of a file")
    try:
        if option == "--results-dir":
            file.parent.mkdir(parents=True, exist_ok=True)
        probe = file.parent / f".{file.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{option}: cannot write {file}: {error.strerror}") from None
