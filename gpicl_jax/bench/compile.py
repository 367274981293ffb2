"""`gpicl compile`: the program of a run, compiled for accelerators that need not be there."""

import functools
import re
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gpicl_jax.bench.counts import Cost, product_flops, program_cost
from gpicl_jax.bench.program import NUM_IMAGES, changed
from gpicl_jax.bench.targets import Target, compiler_options, devices_of
from gpicl_jax.build import make_source, make_tasks
from gpicl_jax.data.datasets import is_missing
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.hyper import hyper_from
from gpicl_jax.learners.base import check_fits
from gpicl_jax.sections import Config, learner_name
from gpicl_jax.settings import UserError, one_line
from gpicl_jax.tasks import Mixture, TaskDistribution
from gpicl_jax.tasks.sources.base import Source
from gpicl_jax.tasks.sources.images import ImageDataset
from gpicl_jax.training.parallel import on_all, over, spread_chunk
from gpicl_jax.training.program import check_shares, make_program

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED.*\bhbm\b", re.IGNORECASE | re.DOTALL)  # as the compiler for TPUs says it


class Compiled(NamedTuple):
    """What a training program needs on each device of a target, and an estimate of how long it takes there.

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
        """Seconds of a step that products, kernels' bytes and all-reduces take at the device's peak rates, each alone.

        An all-reduce of b bytes over n devices sends 2 (n − 1)/n · b from each. Bytes that a GPU finds in its cache count too.
        """
        chip, number = self.target.chip, self.target.num_chips
        return {
            "products": self.flops / getattr(chip, self.precision),
            "memory": self.cost.bytes_moved / chip.bandwidth,
            "collectives": 2 * (number - 1) / number * self.cost.reduced / self.target.link,
        }

    @property
    def seconds(self) -> float:
        """Seconds of a step by the roofline, the largest of its `limits`."""
        return max(self.limits.values())


def compile_for(config: Config, target: Target, parallel: str) -> Compiled:
    """Compiles the chunk that `train` runs for all devices of `target`.

    Raises:
      UserError: the devices cannot share a batch, the data do not fit the learner, there is nothing to meta-learn, the compiler
        is not installed, or it refuses the program for another reason than memory. All that it says is then in a file.
    """
    check_shares(config, target.num_chips)
    devices, program, tasks = devices_of(target), make_program(config), stand_in_tasks(config)
    check_fits(program.learner, tasks)
    hyper = hyper_from(config)
    given = (jax.eval_shape(program.init, hyper), tasks, hyper)
    if not jax.tree.leaves(given[0].params):
        raise UserError(
            f"'{learner_name(config)}' meta-learns nothing, so that gpicl train compiles no training; give another config"
        )
    begun = time.monotonic()
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
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        if target.chip.platform != "tpu" or not _OUT_OF_MEMORY.search(str(error)):
            raise UserError(f"XLA cannot compile this for {target.name}: {one_line(error)}; {_kept(str(error))}") from None
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


def _kept(text: str) -> str:
    file = Path(tempfile.mkdtemp(prefix="gpicl-")) / "xla.txt"
    file.write_text(text, encoding="utf-8")
    return f"all that it says is in {file}"


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
    """Returns the largest `tasks.tasks_per_step` that fits, to 5%, or 0 where none does. It compiles a few times.

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
