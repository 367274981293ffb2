"""The command `gpicl compile`: its tables, its CSV and its exit code."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from gpicl_jax.bench.compile import Compiled, compile_for, largest_batch
from gpicl_jax.bench.program import changed
from gpicl_jax.bench.run import check_writable
from gpicl_jax.bench.targets import GIB, Target, find_target, prepare
from gpicl_jax.config import load_config
from gpicl_jax.files import write_atomic
from gpicl_jax.hyper import compiled_part
from gpicl_jax.sections import Config
from gpicl_jax.training.program import check_shares


def row_of(name: str, config: Config, parallel: str, compiled: Compiled) -> dict[str, Any]:
    """Returns all numbers of one config and target, as a CSV has them."""
    cost = compiled.cost
    bound = max(compiled.limits, key=compiled.limits.get)
    return {
        **_key(name, config, compiled.target, parallel),
        "length": config.tasks.length,
        "chips": compiled.target.num_chips,
        "precision": compiled.precision,
        "fits": compiled.fits,
        "arguments_gib": compiled.arguments / GIB,
        "temporaries_gib": compiled.temporaries / GIB,
        "usable_gib": compiled.target.chip.usable / GIB,
        "gflop": compiled.flops / 1e9,
        "gb": cost.bytes_moved / 1e9,
        "xla_gflop": compiled.counted.get("flops", np.nan) / 1e9,
        "xla_gb": compiled.counted.get("bytes accessed", np.nan) / 1e9,
        "kernels": cost.kernels,
        "loops": cost.loops,
        "loops_once": cost.once,
        "collectives": sum(cost.collectives.values()),
        "reduced_mb": cost.reduced / 1e6,
        **{f"{limit}_ms": 1e3 * seconds for limit, seconds in compiled.limits.items()},
        "bound": bound,
        "steps_per_second": 1 / compiled.seconds if compiled.seconds else float("nan"),
        "hours": config.train.steps * compiled.seconds / 3600,
        "compile_seconds": compiled.compile_seconds,
        "jax": jax.__version__,
    }


def table(row: dict[str, Any]) -> str:
    """Returns a row of `row_of` as lines of text."""
    over_by = row["arguments_gib"] + row["temporaries_gib"] - row["usable_gib"]
    fits = "fits" if row["fits"] else "does not fit" + (f", by {over_by:.2f} GiB" if np.isfinite(over_by) else "")
    together = "" if row["chips"] == 1 else f", {row['chips']} chips by {row['parallel']}"
    once = f" ({row['loops_once']} of unknown length, taken once)" if row["loops_once"] else ""
    lines = {
        "memory": f"{row['arguments_gib']:.2f} GiB of arguments + {row['temporaries_gib']:.2f} of temporaries, of "
        f"{row['usable_gib']:.1f} a chip: {fits}",
        "a step": f"{row['gflop']:,.0f} GFLOP of {row['precision']} products, {row['gb']:.2f} GB moved, {row['kernels']:,.0f} "
        f"kernels, {row['loops']} loops{once}",
        "collectives": f"{row['collectives']:.0f} a step, {row['reduced_mb']:.1f} MB",
        "at peak rates": f"products {row['products_ms']:.2f} ms, memory {row['memory_ms']:.2f}, collectives "
        f"{row['collectives_ms']:.2f}",
        "estimate": f"{row['steps_per_second']:,.1f} steps/s, by {row['bound']}; {row['hours']:.2f} h for train.steps",
        "compiled in": f"{row['compile_seconds']:.0f} s, jax {row['jax']}",
    }
    if row["chips"] == 1:
        del lines["collectives"]
    if not np.isfinite(row["temporaries_gib"]):
        lines = {"memory": "does not fit, XLA says"} | {"compiled in": lines["compiled in"]}
    title = f"{row['config']} for {row['target']}{together}: {row['episodes']} episodes of {row['length']} × {row['features']}"
    return "\n".join([title, *(f"  {name:<14} {text}" for name, text in lines.items())])


def run_compile(
    names: list[str],
    overrides: tuple[str, ...],
    targets: list[str],
    *,
    parallel: str,
    largest: bool,
    json_file: Path | None,
    results: Path | None,
) -> int:
    """Compiles every config for every target, and prints a table for each. Returns 1 where one does not fit, else 0.

    Args:
      names: configs.
      overrides: changes of them all.
      targets: names of targets, see `find_target`.
      parallel: `pmap` or `jit`, for several devices.
      largest: also find the largest batch that fits.
      json_file: where to write all rows.
      results: folder of `compile.csv`. Rows that it has are not made again, and others are added.

    Raises:
      UserError: a config or target is wrong, or a program cannot be compiled. XLA's full text is then in a file.
    """
    prepare()
    pairs = [(name, load_config(name, overrides), find_target(each)) for name in names for each in targets]
    for _, config, target in pairs:
        check_shares(config, target.num_chips)
    if json_file:
        check_writable(json_file, "--json")
    if results:
        check_writable(results / "compile.csv", "--results-dir")
    made, rows = [], _stored(results)
    for name, config, target in pairs:
        key = _key(name, config, target, parallel)
        row = next((row for row in rows if key.items() <= row.items()), None)
        if row is not None:
            print(f"{name} for {target.name}: {results}/compile.csv has it", flush=True)
        else:
            row = _new_row(name, config, target, parallel, largest)
            rows.append(row)
        made.append(row)
        if results:
            write_atomic(results / "compile.csv", lambda file: pd.DataFrame(rows).to_csv(file, index=False))
        if json_file:
            write_atomic(json_file, lambda file: file.write(pd.DataFrame(made).to_json(orient="records", indent=2).encode()))
    return 0 if all(row["fits"] for row in made) else 1


def _stored(results: Path | None) -> list[dict[str, Any]]:
    csv = results / "compile.csv" if results else None
    return pd.read_csv(csv, dtype={"program": str}).to_dict("records") if csv and csv.is_file() else []


def _new_row(name: str, config: Config, target: Target, parallel: str, largest: bool) -> dict[str, Any]:
    compiled = compile_for(config, target, parallel)
    row = row_of(name, config, parallel, compiled)
    print(table(row), flush=True)
    if largest:
        row["largest"] = largest_batch(config, target, parallel, compiled)
        fits = f"tasks.tasks_per_step = {row['largest']} fits" if row["largest"] else "no number of tasks fits"
        print(f"  {'largest':<14} {fits}", flush=True)
    return row


def _digest(config: Config) -> str:
    """Returns what stands for all settings that a program is compiled from."""
    sections = compiled_part(changed(config, data={"dir": ""})).sections
    kept = {name: section for name, section in sections.items() if name not in ("eval", "log")}
    return hashlib.sha256(str(kept).encode()).hexdigest()[:8]


def _key(name: str, config: Config, target: Target, parallel: str) -> dict[str, Any]:
    """Returns the columns that tell the rows of a CSV apart."""
    return {
        "config": name,
        "program": _digest(config),
        "features": config.data.num_features,
        "episodes": config.tasks.tasks_per_step * config.tasks.sequences_per_task,
        "accumulate": config.train.accumulate,
        "target": target.name,
        "parallel": parallel if target.num_chips > 1 else "–",
    }
