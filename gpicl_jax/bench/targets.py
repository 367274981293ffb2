"""Accelerators by their public numbers, and as devices that XLA compiles for without having them."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from gpicl_jax.settings import UserError, nearest, one_line

GIB = 2**30
INSTALL = ".venv/bin/pip install -e '.[{}]'"
_USED = {"gpu": 0.75, "tpu": 0.98}  # shares of the memory: JAX takes three quarters of a GPU's, unless it is told otherwise


class Cuda(NamedTuple):
    """What XLA asks of a GPU: compute capability, multiprocessors, and their sizes (bytes, GHz)."""

    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    clock_ghz: float
    l2: int
    shared_per_core: int
    shared_per_block: int


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      about: name that the maker gives it.
      memory: bytes.
      bandwidth: bytes/s of the memory.
      float32: FLOP/s of products of float32 as JAX makes them by default: TF32 on a GPU, one pass of bfloat16 on a TPU.
      bfloat16: FLOP/s of products of bfloat16, without sparsity.
      link: bytes/s from one chip to its neighbours, in one direction.
      network: bytes/s of a GPU to those of other hosts: the network cards that the maker's servers have.
      cuda: of a GPU. None: a TPU.
      source: where the rates are published. What XLA asks of a GPU, and its memory, are in XLA's repository
        (xla/backends/gpu/target_config/specs).
    """

    about: str
    memory: int
    bandwidth: float
    float32: float
    bfloat16: float
    link: float
    network: float
    source: str
    cuda: Cuda | None = None

    @property
    def platform(self) -> str:
        """`gpu` or `tpu`, as JAX calls it."""
        return "gpu" if self.cuda else "tpu"

    @property
    def told(self) -> str:
        """Its name, memory and rates, with their source."""
        products = f"{self.float32 / 1e12:,.0f} TFLOP/s in float32, {self.bfloat16 / 1e12:,.0f} in bfloat16"
        return f"{self.about}, {self.memory / GIB:.0f} GiB, {self.bandwidth / 1e9:,.0f} GB/s, {products} ({self.source})"

    @property
    def usable(self) -> float:
        """Bytes that a program can have."""
        return self.memory * _USED[self.platform]


_NVIDIA = "NVIDIA's data sheet"
_GOOGLE = "cloud.google.com/tpu/docs/"
_HOPPER = Cuda((9, 0), 132, 128, 1.98, 50 * 2**20, 233_472, 232_448)
CHIPS = {
    "a6000": Chip(
        "NVIDIA RTX A6000", 51_041_271_808, 768e9, 77.4e12, 154.8e12, 56e9, 12.5e9, _NVIDIA,
        Cuda((8, 6), 84, 128, 1.8, 6 * 2**20, 102_400, 101_376),
    ),
    "a100": Chip(
        "NVIDIA A100-SXM4-80GB", 85_100_068_864, 2039e9, 156e12, 312e12, 300e9, 25e9, _NVIDIA,
        Cuda((8, 0), 108, 64, 1.41, 40 * 2**20, 167_936, 166_912),
    ),
    "h100": Chip(
        "NVIDIA H100 80GB HBM3", 84_942_979_072, 3352e9, 494.7e12, 989.4e12, 450e9, 50e9, _NVIDIA,
        _HOPPER,
    ),
    "h200": Chip(
        "NVIDIA H200 141GB HBM3e", 151_397_597_184, 4800e9, 494.7e12, 989.4e12, 450e9, 50e9, _NVIDIA,
        _HOPPER,
    ),
    "b200": Chip(
        "NVIDIA B200", 191_514_411_008, 7672e9, 1125e12, 2250e12, 900e9, 50e9, _NVIDIA,
        Cuda((10, 0), 148, 128, 1.965, 132_644_864, 233_472, 232_448),
    ),
    "v4": Chip("TPU v4", 32 * GIB, 1228e9, 275e12, 275e12, 300e9, 300e9, f"{_GOOGLE}v4"),
    "v5e": Chip("TPU v5e", 16 * GIB, 819e9, 197e12, 197e12, 200e9, 200e9, f"{_GOOGLE}v5e"),
    "v5p": Chip("TPU v5p", 95 * GIB, 2765e9, 459e12, 459e12, 600e9, 600e9, f"{_GOOGLE}v5p"),
    "v6e": Chip("TPU v6e", 32 * GIB, 1640e9, 918e12, 918e12, 400e9, 400e9, f"{_GOOGLE}v6e"),
}  # fmt: skip


_BY_KIND = {chip.about: chip for chip in CHIPS.values()} | {
    kind: CHIPS[name]
    for kind, name in {"NVIDIA H200": "h200", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}.items()
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls `device_kind`, or None where its numbers are not known.

    Example:
      >>> chip_of("NVIDIA H200").about, chip_of("TPU v5 lite").about, chip_of("cpu")
      ('NVIDIA H200 141GB HBM3e', 'TPU v5e', None)
    """
    return _BY_KIND.get(device_kind)


class Target(NamedTuple):
    """What to compile for.

    Attributes:
      name: as it was given, e.g. `h100`, `h100:4`, `v5e:2x4`.
      chip: each of its devices.
      shape: number of chips along each axis.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def link(self) -> float:
        """Bytes/s of the slowest link of a chip to the others, in one direction. A host has eight GPUs."""
        return self.chip.network if self.num_chips > 8 else self.chip.link


def find_target(name: str) -> Target:
    """Returns the target of `NAME`, one chip, of `NAME:N`, N GPUs, or of `NAME:AxB`, a slice of TPUs (v4 and v5p: `AxBxC`).

    Raises:
      UserError: nobody knows it.

    Example:
      >>> find_target("h100").num_chips, find_target("h100:16").num_chips, find_target("v5e:2x4").num_chips
      (1, 16, 8)
    """
    chip, _, shape = name.partition(":")
    if chip not in CHIPS:
        raise UserError(f"--for {name}: no target '{chip}'{nearest(chip, CHIPS)}")
    axes = 1 if CHIPS[chip].cuda else 3 if chip in ("v4", "v5p") else 2
    sides = shape.split("x") if shape else ["1"] * axes
    if len(sides) != axes or not all(re.fullmatch("[1-9][0-9]{0,3}", side) for side in sides):
        form = ("8", "2x4", "2x2x2")[axes - 1]
        raise UserError(f"--for {name}: expected a number of chips along {axes} axes, e.g. {chip}:{form}; {chip} alone is one")
    return Target(name, CHIPS[chip], tuple(map(int, sides)))


def prepare() -> None:
    """Makes this process compute on its CPU alone. To be called before JAX looks for devices."""
    jax.config.update("jax_platforms", "cpu")


# For the compiler of TPUs: it looks for no TPU, says nothing of it, and shares the machine with other processes.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def devices_of(target: Target) -> list[jax.Device]:
    """Returns devices to compile for. Nothing can be put on them.

    Raises:
      UserError: the compiler is not installed, or does not know the shape.
    """
    _check_installed(target)
    try:
        devices = list(_topology(target).devices)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise UserError(f"--for {target.name}: its compiler gives no such devices: {one_line(error)}") from None
    if len(devices) != target.num_chips:
        raise UserError(
            f"--for {target.name}: its compiler makes {len(devices)} devices of {target.num_chips} chips; give another shape"
        )
    return devices


def compiler_options(target: Target) -> dict[str, int | bool]:
    """Returns XLA's options for a target that is not there: on GPUs nothing can be tried, so that no kernel is tuned."""
    return {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False} if target.chip.cuda else {}


def _check_installed(target: Target) -> None:
    if target.chip.cuda:
        plugins = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
        missing, extra = None if plugins else "jax-cuda12-plugin", "aot-cuda"
    else:
        missing, extra = None if importlib.util.find_spec("libtpu") else "libtpu", "aot-tpu"
    if missing:
        raise UserError(f"--for {target.name} needs {missing}; install it: {INSTALL.format(extra)}")


def _topology(target: Target) -> topologies.TopologyDescription:
    if target.chip.cuda:
        hosts, each = max(1, target.num_chips // 8), min(8, target.num_chips)
        if hosts * each != target.num_chips:
            raise UserError(f"--for {target.name}: hosts have 8 GPUs; give up to 8, or a multiple of 8")
        options = {"target_config": _cuda_config(target.chip), "topology": f"1x{hosts}x{each}"}
        return topologies.get_topology_desc(target.name.split(":")[0], platform="cuda", **options)
    for variable, value in _NO_TPU.items():
        os.environ.setdefault(variable, value)
    shape, options = "x".join(map(str, target.shape)), {}
    if target.num_chips <= (8 if len(target.shape) == 2 else 4):  # one host
        options["chips_per_host_bounds"] = (*target.shape, 1)[:3]
    if target.name.startswith("v4"):
        options["chip_config_name"] = "megacore"
    return topologies.get_topology_desc(f"{target.name.split(':')[0]}:{shape}", platform="tpu", **options)


def _cuda_config(chip: Chip) -> str:
    """Returns a GpuTargetConfigProto as text, with the fields that XLA reads."""
    cuda = chip.cuda
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 1536 if cuda.capability == (8, 6) else 2048,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": cuda.shared_per_core,
        "shared_memory_per_block_optin": cuda.shared_per_block,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
        "core_count": cuda.cores,
        "fpus_per_core": cuda.fpus_per_core,
        "clock_rate_ghz": cuda.clock_ghz,
        "l2_cache_size": cuda.l2,
        "memory_bandwidth": int(chip.bandwidth),
        "device_memory_size": chip.memory,
        **{f"block_dim_limit_{axis}": limit for axis, limit in zip("xyz", (2**31 - 1, 65_535, 65_535), strict=True)},
        **{f"thread_dim_limit_{axis}": limit for axis, limit in zip("xyz", (1024, 1024, 64), strict=True)},
    }
    fields = "\n".join(f"{name}: {value}" for name, value in numbers.items())
    major, minor = cuda.capability
    return (
        f"gpu_device_info {{\n{fields}\ncuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 10 }}\ndevice_description_str: "{chip.about}"\n'
    )
