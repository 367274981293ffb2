"""`gpicl compile`: the program of a run, compiled for accelerators that need not be there."""

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from gpicl_jax.bench.counts import Cost, product_flops, program_cost
from gpicl_jax.bench.program import NUM_IMAGES, changed
from gpicl_jax.bench.targets import GIB, Target, compiler_options, devices_of, find_target, prepare
from gpicl_jax.build import make_source, make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.data.datasets import is_missing
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.files import write_atomic
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import check_fits
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError, one_line
from gpicl_jax.tasks import Mixture, TaskDistribution
from gpicl_jax.tasks.sources.base import Source
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.parallel import on_all, over, spread_chunk
from gpicl_jax.training.program import check_shares, make_program


class CannotCompile(UserError):
    """XLA refuses a program. `text` is all that it says."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class Compiled(NamedTuple):
    """What a training program needs on each device of a target, and at least how long it takes there.

    Attributes:
      target: what it is compiled for.
      arguments: bytes of parameters, optimiser's state and base datasets.
      temporaries: bytes beside them while a step runs.
      flops: FLOPs of a step's matrix products, as the jaxpr has them, on each device.
      cost: what a step does on each device, as it is compiled.
      counted: FLOPs and bytes of a chunk as XLA counts them, the body of a loop once. It does not count for GPUs.
      compile_seconds: from tracing to the end.
      precision: of the products, `float32` or `bfloat16`.
    """

    target: Target
    arguments: float
    temporaries: float
    flops: float
    cost: Cost
    counted: dict[str, float]
    compile_seconds: float
    precision: str

    @property
    def needed(self) -> float:
        """Bytes on each device."""
        return self.arguments + self.temporaries

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.needed <= self.target.chip.usable

    @property
    def limits(self) -> dict[str, float]:
        """Seconds of a step that products, memory and collectives take at the device's peak rates, each alone.

        An all-reduce of b bytes over n devices sends 2 (n − 1)/n · b from each.
        """
        chip, number = self.target.chip, self.target.num_chips
        return {
            "products": self.flops / getattr(chip, self.precision),
            "memory": self.cost.bytes_moved / chip.bandwidth,
            "collectives": 2 * (number - 1) / number * self.cost.reduced / chip.link,
        }

    @property
    def seconds(self) -> float:
        """Seconds of a step at least, the largest of its `limits` (the roofline)."""
        return max(self.limits.values())


def compile_for(config: Config, target: Target, parallel: str) -> Compiled:
    """Compiles the chunk that `train` runs for all devices of `target`.

    Raises:
      UserError: the devices cannot share a batch, the data do not fit the learner, or the compiler is not installed.
      CannotCompile: XLA refuses the program for another reason than memory.
    """
    check_shares(config, target.num_chips)
    devices, program, tasks = devices_of(target), make_program(config), stand_in_tasks(config)
    check_fits(program.learner, tasks)
    hyper = hyper_from(config)
    begun = time.monotonic()
    given = (jax.eval_shape(program.init, hyper), tasks, hyper)
    flops = product_flops(
        jax.make_jaxpr(functools.partial(program.chunk, gradient=program.gradient))(*given), target.chip.platform
    )
    given = jax.tree.map(lambda leaf: _abstract(leaf, on_all(devices)), given)
    if len(devices) > 1 and parallel == "pmap":
        given = *given, jax.ShapeDtypeStruct((len(devices),), np.int32, sharding=over(devices))
    run = spread_chunk(program.chunk, program.gradient, parallel=parallel, devices=devices)
    steps, share = config.train.chunk, config.train.chunk * len(devices)
    of_model = getattr(config.model, "dtype", "float32")
    try:
        made = run.lower(*given).compile(compiler_options=compiler_options(target))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise CannotCompile(f"XLA cannot compile this for {target.name}: {one_line(error)}", str(error)) from None
        return Compiled(target, 0.0, float("inf"), flops / share, Cost(), {}, time.monotonic() - begun, of_model)
    memory, cost = made.memory_analysis(), program_cost(made.as_text())
    return Compiled(
        target=target,
        arguments=memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=flops / share,
        cost=cost.times(1 / steps),
        counted=made.cost_analysis() or {},
        compile_seconds=time.monotonic() - begun,
        precision=of_model,
    )


def _abstract(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)


def stand_in_tasks(config: Config) -> TaskDistribution:
    """Returns the training tasks of a config. Blank images take the place of sets that are not ready on this machine."""
    folder, blank = data_folder(config.data.dir), functools.partial(_blank, config)
    sources = [blank(name) if is_missing(name, folder) else make_source(config, name, "train") for name in config.data.train]
    source = sources[0] if len(sources) == 1 else Mixture(tuple(sources), config.data.weights)
    return make_tasks(config, "train", source=source)


def _blank(config: Config, name: str) -> Source:
    images_NX = np.zeros((NUM_IMAGES, config.data.num_features), np.uint8)
    images_NX[0] = 1  # so that they do not all have one value
    return ImageDataset.build(images_NX, np.arange(NUM_IMAGES) % 10, mean=0.0, std=1.0, name=name)


def largest_batch(config: Config, target: Target, parallel: str, compiled: Compiled) -> int:
    """Returns the largest `tasks.tasks_per_step` that fits, to 5%. It compiles a few times.

    Args:
      compiled: what the config itself needs. Memory grows about in proportion, which tells where to look.
    """
    slices = check_shares(config, target.num_chips)
    low, high, number = 0, None, config.tasks.tasks_per_step // slices
    while True:
        low, high = (number, high) if compiled.fits else (low, number)
        near = max(1, low // 20)
        if high is not None and high - low <= near:
            return low * slices
        guess = int(number * (target.chip.usable - compiled.arguments) / compiled.temporaries)
        inside = guess if high is None or low < guess < high else (low + high) // 2
        number = max(low + near, inside)
        compiled = compile_for(changed(config, tasks={"tasks_per_step": number * slices}), target, parallel)


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
    lines = {
        "memory": f"{row['arguments_gib']:.2f} GiB of arguments + {row['temporaries_gib']:.2f} of temporaries, of "
        f"{row['usable_gib']:.1f} a chip: {fits}",
        "a step": f"{row['gflop']:,.0f} GFLOP of {row['precision']} products, {row['gb']:.2f} GB moved, {row['kernels']:,.0f} "
        f"kernels, {row['loops']} loops",
        "collectives": f"{row['collectives']:.0f} a step, {row['reduced_mb']:.1f} MB",
        "at peak rates": f"products {row['products_ms']:.2f} ms, memory {row['memory_ms']:.2f}, collectives "
        f"{row['collectives_ms']:.2f}: bound by {row['bound']}",
        "at most": f"{row['steps_per_second']:,.1f} steps/s; train.steps take {row['hours']:.2f} hours or more",
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
    csv = results / "compile.csv" if results else None
    rows = pd.read_csv(csv).to_dict("records") if csv and csv.is_file() else []
    for name, config, target in pairs:
        if any(_key(name, config, target, parallel).items() <= row.items() for row in rows):
            continue
        compiled = _compile(config, target, parallel)
        rows.append(row_of(name, config, parallel, compiled))
        print(table(rows[-1]), flush=True)
        if largest:
            rows[-1]["largest"] = largest_batch(config, target, parallel, compiled)
            print(f"  {'largest':<14} tasks.tasks_per_step = {rows[-1]['largest']} fits", flush=True)
        if csv:
            results.mkdir(parents=True, exist_ok=True)
            write_atomic(csv, lambda file: pd.DataFrame(rows).to_csv(file, index=False))
    if json_file:
        write_atomic(json_file, lambda file: file.write(json.dumps(rows, indent=2, default=str).encode()))
    return 0 if all(row["fits"] for row in rows) else 1


def _key(name: str, config: Config, target: Target, parallel: str) -> dict[str, Any]:
    """Returns the columns that tell the rows of a CSV apart."""
    return {
        "config": name,
        "features": config.data.num_features,
        "episodes": config.tasks.tasks_per_step * config.tasks.sequences_per_task,
        "accumulate": config.train.accumulate,
        "target": target.name,
        "parallel": parallel if target.num_chips > 1 else "–",
    }


def _compile(config: Config, target: Target, parallel: str) -> Compiled:
    try:
        return compile_for(config, target, parallel)
    except CannotCompile as error:
        file = Path(tempfile.mkdtemp(prefix="gpicl-")) / "xla.txt"
        file.write_text(error.text, encoding="utf-8")
        raise UserError(f"{error}; all that it says is in {file}") from None
