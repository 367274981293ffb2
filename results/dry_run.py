"""Writes `dry_run.csv`: what every experiment does and needs at `--scale paper`, a row for each command of `COMMANDS`.

    python results/dry_run.py     # makes the rows that the CSV lacks: delete it to make all anew; needs the extra aot-cuda

`gpicl experiment NAME --scale paper --dry-run --for h100` prints the same numbers.
"""

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

from gpicl_jax.arguments import parser
from gpicl_jax.bench.dry_run import totals, units_to_do
from gpicl_jax.bench.targets import find_target, prepare
from gpicl_jax.experiments.engine import make_experiment
from gpicl_jax.experiments.engine.run import Asked
from gpicl_jax.files import write_atomic

CSV = Path(__file__).parent / "dry_run.csv"
TARGET = "h100"
COMMANDS = {  # and whether their programs are compiled, which takes a quarter of a minute to a minute each
    "scaling --permute 0": True,
    "scaling": True,
    "transition": True,
    "equivariant": True,
    "learning-curves": True,
    "plateau": False,
    "equivariant-transition": False,
    "context-size": False,
    "state-size": False,
    "sample-efficiency": False,
    "symmetries": False,
    "comparison": False,
    "few-shot": False,
    "omniglot-maml": False,
}


def row(command: str, compiled: bool, programs: dict) -> dict[str, object]:
    """Returns the totals of a command of `gpicl experiment`, without hours and memory where nothing is compiled."""
    options = parser().parse_args(["experiment", *shlex.split(command), "--scale", "paper"])
    experiment = make_experiment(options.name, options.scale).with_options(permute=tuple(options.permute))
    nowhere = Path(tempfile.gettempdir()) / "no-folder-of-any-run"
    target = find_target(TARGET) if compiled else None
    found = totals(list(units_to_do(replace(experiment, data_dir=options.data_dir), Asked(nowhere, nowhere), target, programs)))
    kept = found if compiled else {name: found[name] for name in found if name not in ("hours", "memory_gib", "do_not_fit")}
    return {"command": command, **kept}


if __name__ == "__main__":
    prepare()
    rows, programs = pd.read_csv(CSV).to_dict("records") if CSV.is_file() else [], {}
    for command, compiled in COMMANDS.items():
        if command not in {each["command"] for each in rows}:
            rows.append(row(command, compiled, programs if compiled else {}))
            print(rows[-1], flush=True)
            write_atomic(CSV, lambda file: pd.DataFrame(rows).to_csv(file, index=False, float_format="%.6g"))
