"""`gpicl bench`: measures, prints, writes."""

import importlib.util
import json
import os
import tempfile
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from gpicl_jax.bench.measure import Row, threads
from gpicl_jax.bench.program import Asked
from gpicl_jax.config import load_config
from gpicl_jax.figures import benchmarks
from gpicl_jax.files import write_atomic
from gpicl_jax.runs.folder import describe_run
from gpicl_jax.settings import UserError
from gpicl_jax.training.population import one_device_a_core


def run_bench(
    name: str, overrides: tuple[str, ...], asked: Asked, command: list[str], *, json_file: Path | None, results: Path | None
) -> int:
    """Measures one benchmark and prints its tables. Returns the exit code.

    Args:
      name: a file of this folder with `measure(config, asked)`, which returns rows, and `TAKES`, the settings and options that
        it supports. `ONE_DEVICE_A_CORE` says that it cuts a CPU into devices. Its config is `bench/NAME`.
      overrides: changes of that config, `--section.key=value`.
      asked: what to compare with.
      command: the command line, for the record.
      json_file: where to write all results.
      results: folder whose `NAME.csv` and figure are written anew.

    Raises:
      UserError: a setting or an option is wrong, or a file cannot be written. This is checked before anything is measured.
    """
    config, benchmark = load_config(f"bench/{name}", overrides), importlib.import_module(f"gpicl_jax.bench.{name}")
    _check_asked(name, benchmark.TAKES, overrides, asked)
    if json_file:
        check_writable(json_file, "--json")
    if results:
        check_writable(results / f"{name}.csv", "--results-dir")
    if hasattr(benchmark, "ONE_DEVICE_A_CORE"):
        one_device_a_core()
    record = _describe(command)
    print(f"{record['devices'][0]}, {record['threads']} threads, jax {record['packages']['jax']}", end="")
    print(f", torch {record['packages']['torch']}" if asked.options else "", end="")
    print(f", load average {record['load_average']:.1f}; medians of {asked.repeats} rounds (10th–90th percentile)", flush=True)
    rows = benchmark.measure(config, asked)
    if json_file:
        content = {"benchmark": name, **record, "rows": [row._asdict() for row in rows]}
        write_atomic(json_file, lambda file: file.write(json.dumps(content, indent=2, ensure_ascii=False).encode()))
    if results:
        _write_results(results, name, record, rows)
    print(text(rows))
    return 0


def _describe(command: list[str]) -> dict[str, Any]:
    """Returns what a measurement ran on: versions, devices, threads, and the load of the machine."""
    record = describe_run(command, "pmap")
    del record["parallel"]
    record["packages"]["torch"] = metadata.version("torch") if importlib.util.find_spec("torch") else None
    return {**record, "threads": threads(), "load_average": os.getloadavg()[0]}


def _check_asked(name: str, takes: tuple[str, ...], overrides: tuple[str, ...], asked: Asked) -> None:
    """Refuses settings and options without effect, a missing PyTorch, and too few rounds."""
    if asked.repeats < 2:
        raise UserError(f"--repeats {asked.repeats}; expected 2 or more, for a spread")
    for given in (*overrides, *asked.options):
        setting = given.removeprefix("--").split("=")[0]
        if not {given, setting, setting.split(".")[0]} & set(takes):
            raise UserError(
                f"{given} changes nothing of gpicl bench {name}, which draws random images; it takes {', '.join(takes)}"
            )
    if asked.options and importlib.util.find_spec("torch") is None:
        raise UserError(f"{asked.options[0]} needs PyTorch; install it with: pip install torch")


def check_writable(file: Path, option: str) -> None:
    """Raises UserError where the file that an option names cannot be written."""
    if file.is_dir():
        raise UserError(f"{option} {file} is a folder; expected the name of a file")
    try:
        if option == "--results-dir":
            file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UserError(f"{option}: cannot write {file}: {error.strerror}") from None


def _write_results(folder: Path, name: str, record: dict[str, Any], rows: list[Row]) -> None:
    """Writes `NAME.csv` anew in `folder`, and the figure of all tables in it."""
    versions = {each: record["packages"].get(each) or "–" for each in ("jax", "torch")}
    frame = pd.DataFrame(rows).assign(**versions, device=record["devices"][0], threads=record["threads"])
    write_atomic(folder / f"{name}.csv", lambda file: frame.to_csv(file, index=False))
    figure = benchmarks(pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))], ignore_index=True))
    write_atomic(folder / "benchmarks.png", lambda file: figure.savefig(file, format="png"))


def text(rows: Sequence[Row]) -> str:
    """Returns the rows as aligned tables, a line for each side and a column for each quantity, with three figures.

    Example:
      >>> print(text([Row("speed", "a", "tasks/s", 3.14159, 3, 4e9), Row("speed", "b", "tasks/s", 1250, 1250, 1250)]))
      speed
        side         tasks/s
        a     3.14 (3–4e+09)
        b              1,250
    """
    blocks = []
    frame = pd.DataFrame([row._replace(median=_cell(row)) for row in rows])
    for title, table in frame.groupby("table", sort=False):
        cells = table.pivot(index="side", columns="quantity", values="median").fillna("")
        cells = cells.reindex(index=table.side.unique(), columns=table.quantity.unique())
        blocks += [title, textwrap.indent(cells.rename_axis(index=None, columns="side").to_string(), "  ")]
    return "\n".join(blocks)


def _cell(row: Row) -> str:
    """Returns the median with its spread, without an exponent below a million."""
    numbers = (f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}" for value in (row.median, row.low, row.high))
    return "{} ({}–{})".format(*numbers) if row.low != row.high else next(numbers)
