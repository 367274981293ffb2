"""`gpicl doctor`: whether this machine can meta-train, how fast, and how large. One line a check."""

import configparser
import functools
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from packaging.requirements import Requirement

from gpicl_jax import __version__
from gpicl_jax.bench.counts import Cost, product_flops, program_cost
from gpicl_jax.bench.measure import by_turns, compile_apart, needed_bytes
from gpicl_jax.bench.program import Program
from gpicl_jax.bench.run import check_writable
from gpicl_jax.bench.step import machine_rates
from gpicl_jax.bench.targets import GIB, INSTALL, chip_of
from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.data.cache import cache_folder
from gpicl_jax.data.datasets import available
from gpicl_jax.data.prepared import data_folder
from gpicl_jax.data.resize import device_memory
from gpicl_jax.files import write_atomic
from gpicl_jax.runs.folder import PACKAGES
from gpicl_jax.settings import UserError, one_line
from gpicl_jax.tasks.pinned import PINNED, digest, pinned_arrays

STEPS, CHUNK, CONFIG = 20, 5, "digits"
LOSS = 1.5  # nats; the last chunk's is 0.76 on a CPU, and chance is 2.3
LARGE = "comparison/paper/transformer"
_COMPARE = "compare with JAX_PLATFORMS=cpu gpicl doctor: where that passes, install driver and JAX of this device anew"

Found = tuple[str, dict[str, Any]]  # the text of a check that passed, and its numbers


class Trained(NamedTuple):
    """What `STEPS` training steps of `CONFIG` found, on one device.

    Attributes:
      losses: of each chunk of `CHUNK` steps, NaN where a number was not finite.
      seconds: of a step, the median of the chunks but the first.
      compile_seconds: of the chunk, tracing included.
      flops, cost: work of a step: products of its jaxpr, and what its compiled program moves.
      memory: bytes that a step needs, arguments included.
    """

    losses: tuple[float, ...]
    seconds: float
    compile_seconds: float
    flops: float
    cost: Cost
    memory: int


def run_doctor(json_file: Path | None) -> int:
    """Makes all checks and prints a line for each. Returns 1 where one failed, else 0.

    Args:
      json_file: where to write a list of {check, ok, text, and a check's numbers}. It is written after each check.

    Raises:
      UserError: the file cannot be written. This is checked first.
    """
    if json_file:
        check_writable(json_file, "--json")
    rows = []
    for name, check in CHECKS.items():
        ok, text, numbers = _tried(check)
        print(f"{'ok' if ok else 'FAILED':<7} {name:<10} {text}", flush=True)
        rows.append({"check": name, "ok": ok, "text": text, **numbers})
        if json_file:
            write_atomic(json_file, lambda file: file.write(json.dumps(rows, indent=2, ensure_ascii=False).encode()))
    return 0 if all(row["ok"] for row in rows) else 1


def _tried(check: Callable[[], Found]) -> tuple[bool, str, dict[str, Any]]:
    try:
        return True, *check()
    except UserError as error:
        return False, one_line(error), {}
    except Exception as error:  # of JAX, of the driver: none may hide the other checks
        return False, f"{type(error).__name__}: {one_line(error)}; {_COMPARE}", {}


def check_versions() -> Found:
    """Checks versions against what setup.cfg asks for."""
    found = {"python": platform.python_version(), "gpicl_jax": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    wrong = [
        f"{each.name} is {found[each.name]}, expected {each.specifier}"
        for each in _requirements()
        if each.name in found and (found[each.name] == "missing" or not each.specifier.contains(found[each.name], True))
    ]
    if wrong:
        raise UserError(f"{', '.join(wrong)}; run .venv/bin/pip install -e .")
    return ", ".join(f"{name} {version}" for name, version in found.items()), {"versions": found}


def _requirements() -> list[Requirement]:
    """Returns what setup.cfg asks for, of Python too: that of the clone, or what an installed package keeps of it."""
    setup = configparser.ConfigParser()
    if setup.read(Path(__file__).parents[2] / "setup.cfg"):
        python, others = setup["options"]["python_requires"], setup["options"]["install_requires"].split("\n")
    else:
        installed = metadata.metadata("gpicl_jax")
        python, others = installed["Requires-Python"], installed.get_all("Requires-Dist")
    return [Requirement(f"python{python}"), *(Requirement(line) for line in others if line and "extra ==" not in line)]


def check_devices() -> Found:
    """Checks that JAX sees GPUs where the system has some, unless JAX_PLATFORMS=cpu, and says where it sees fewer."""
    given = os.environ.get("JAX_PLATFORMS")
    to_do = f"unset JAX_PLATFORMS={given}" if given else f"install JAX for CUDA: {INSTALL.format('cuda')}"
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX finds no device ({one_line(error)}); {to_do}") from None
    kind, gpus = devices[0].platform, _num_gpus()
    if kind == "cpu" and gpus and given != "cpu":
        raise UserError(f"this machine has an NVIDIA GPU, but JAX sees only its CPU; {to_do}")
    kinds, memory = Counter(device.device_kind for device in devices), [_memory(device) for device in devices]
    whose = "of the machine" if kind == "cpu" else "each"
    each = "memory unknown" if None in memory else f"{min(memory) / GIB:.1f} GiB {whose}"
    text = f"{' + '.join(f'{number} × {name}' for name, number in kinds.items())} ({kind}), {each}"
    seen = 0 if kind == "cpu" else len(devices)
    if seen < gpus:
        text += f"; JAX sees {seen} of {gpus} NVIDIA GPU{'s' * (gpus > 1)}{'' if seen else ', by JAX_PLATFORMS=cpu'}"
    numbers = {"platform": kind, "kinds": [device.device_kind for device in devices], "memory": memory, "system_gpus": gpus}
    return text, numbers


def _num_gpus() -> int:
    """Returns how many NVIDIA GPUs the system has and CUDA_VISIBLE_DEVICES leaves, whatever JAX says."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        listed = []
    number = sum(line.startswith("GPU ") for line in listed) or len(list(Path("/dev").glob("nvidia[0-9]*")))
    if not number or (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return number
    indices = [str(index) for index in range(number)]  # CUDA stops at the first that is none
    return len(list(takewhile(lambda each: each in indices or each.startswith(("GPU-", "MIG-")), chosen.split(","))))


def _memory(device: jax.Device) -> int | None:
    """Returns the bytes that a device lets JAX use, of a CPU those of the machine, or None where JAX does not say."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return device_memory()[0] if limit is None and device.platform == "cpu" else limit


def check_data() -> Found:
    """Checks the folders of prepared sets and of decoded images, and lists the sets that are ready."""
    folder, cache = data_folder(), cache_folder()
    if os.environ.get("TFDS_DATA_DIR") and not folder.is_dir():
        raise UserError(f"TFDS_DATA_DIR={folder} is no folder; set it to the folder of prepared sets, or unset it")
    if not _writable(cache):
        raise UserError(f"cannot write to the cache {cache}; set GPICL_CACHE_DIR to a folder that can be written")
    sets = available()
    ready, broken = ([name for name, about in sets.items() if about.startswith(how)] for how in ("ready", "not usable"))
    state = "not there" if not folder.is_dir() else "can be written" if _writable(folder) else "can be read"
    text = f"ready: {', '.join(ready)}; prepared sets in {folder} ({state}), decoded images in {cache} (can be written)"
    text += f"; not usable: {', '.join(broken)}, gpicl datasets says why" if broken else ""
    return text, {"ready": ready, "not_usable": broken, "data_folder": str(folder), "cache_folder": str(cache)}


def _writable(folder: Path) -> bool:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def check_tasks() -> Found:
    """Checks that tasks are those of every machine, by the digests of `PINNED`."""
    found = {name: digest(array) for name, array in pinned_arrays().items()}
    wrong = [f"{name} have digest {found[name]}, not {PINNED[name]}" for name in PINNED if found[name] != PINNED[name]]
    if wrong:
        raise UserError(f"tasks are not those of other machines: {', '.join(wrong)} (PINNED of tasks/pinned.py); {_COMPARE}")
    return f"{', '.join(PINNED)} have the digests that are pinned (PINNED of tasks/pinned.py)", {"digests": found}


@functools.cache
def _trained() -> Trained:
    config = load_config(CONFIG, (f"--train.chunk={CHUNK}",))
    program = Program(config, make_tasks(config, "train"))
    state, given, losses, seconds = program.init(program.hyper), (program.tasks, program.hyper), [], []
    flops = product_flops(jax.make_jaxpr(program.chunk)(state, *given), jax.default_backend())
    run, costs = compile_apart(program.chunk, state, *given, donate=(0,))
    for _ in range(STEPS // CHUNK):
        begun = time.perf_counter()
        state, metrics = jax.block_until_ready(run(state, *given))
        seconds.append((time.perf_counter() - begun) / CHUNK)
        losses.append(float(metrics["loss"]) if metrics["finite"] else float("nan"))
    cost = program_cost(run.as_text()).times(1 / CHUNK)
    needed = needed_bytes(run.memory_analysis())
    return Trained(tuple(losses), float(np.median(seconds[1:])), costs["compile s"], flops / CHUNK, cost, needed)


def check_training() -> Found:
    """Checks that the loss falls as it does elsewhere."""
    trained = _trained()
    first, last = trained.losses[0], trained.losses[-1]
    if not last < min(first, LOSS):  # NaN is not less
        raise UserError(f"loss {first:.3f} → {last:.3f} in {STEPS} steps of {CONFIG}, expected less than {LOSS}; {_COMPARE}")
    text = f"loss {first:.3f} → {last:.3f} in {STEPS} steps of {CONFIG}, {1e3 * trained.seconds:.2f} ms a step"
    numbers = {"losses": trained.losses, "step_seconds": trained.seconds, "compile_seconds": trained.compile_seconds}
    return f"{text}, compiled in {trained.compile_seconds:.1f} s", numbers


def check_roofline() -> Found:
    """Returns the share of the device's peak rates that a step reaches, of a CPU and an unknown chip those measured here."""
    trained, kind = _trained(), jax.devices()[0].device_kind
    if chip := chip_of(kind):
        rates, whose = (chip.float32, chip.bandwidth), f"peak of {chip.about}"
    else:
        by_turns(2, sides := machine_rates())
        rates, whose = (float(np.median(1 / side.seconds_R)) for side in sides.values()), "measured here"
    flops, bandwidth = rates
    products, memory = trained.flops / flops, trained.cost.bytes_moved / bandwidth
    cached = memory > trained.seconds  # what stays in a cache moves no bytes
    share = (products if cached else max(products, memory)) / trained.seconds
    numbers = {"share": share, "gflop": trained.flops / 1e9, "gb": trained.cost.bytes_moved / 1e9}
    numbers |= {"gflop_per_second": flops / 1e9, "gb_per_second": bandwidth / 1e9}
    text = f"{share:.1%} of the roofline: products {1e3 * products:.3f} ms of a step ({numbers['gflop']:.2f} GFLOP at "
    text += f"{flops / 1e9:,.0f} GFLOP/s), memory {1e3 * memory:.3f} ({numbers['gb']:.2f} GB at {bandwidth / 1e9:,.0f} GB/s"
    return f"{text}{'; left out, as arrays stay in a cache' if cached else ''}), rates {whose}", numbers


def check_largest() -> Found:
    """Estimates the largest batch of `LARGE` that fits, by proportion. Of a CPU, returns the memory of a step of `CONFIG`."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        needed = _trained().memory
        return f"a step of {CONFIG} needs {needed / GIB:.2f} GiB (no batch is sought on a CPU)", {"step_bytes": needed}
    limit = _memory(device)
    if limit is None:
        raise UserError(f"JAX does not say the memory of {device.device_kind}; unset XLA_PYTHON_CLIENT_ALLOCATOR")
    config = load_config(LARGE)
    size, program = config.tasks.tasks_per_step, Program(config)
    half, whole = (_step_bytes(program.changed(tasks={"tasks_per_step": number})) for number in (size // 2, size))
    numbers = {"step_bytes": whole, "bytes_limit": limit}
    told = f"{LARGE} needs {whole / GIB:.2f} of {limit / GIB:.1f} GiB with tasks.tasks_per_step = {size}"
    each = max(0, whole - half) / (size - size // 2)
    if whole - (size - 1) * each > limit:
        raise UserError(f"{told}; by proportion not even 1 fits, so choose a smaller model for this device")
    if not each:
        return f"{told}, and no less with {size // 2}, so the largest is not known", numbers
    largest = size + int((limit - whole) // each)
    return f"{told}; about {largest} fit, by proportion", {"largest": largest, **numbers}


def _step_bytes(program: Program) -> int:
    state = jax.eval_shape(program.init, program.hyper)
    run, _ = compile_apart(program.chunk, state, program.tasks, program.hyper, donate=(0,))
    return needed_bytes(run.memory_analysis())


CHECKS = {
    "versions": check_versions,
    "devices": check_devices,
    "data": check_data,
    "tasks": check_tasks,
    "training": check_training,
    "roofline": check_roofline,
    "largest": check_largest,
}
