"""The gradient of a batch: in parts one after another, on several devices by `pmap`, or by `jit` over a mesh.

Keys are drawn for the whole batch everywhere and then cut into slices of its tasks, so that the batch does not depend on the
number of devices. The mean over slices is the gradient of the batch.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from gpicl_jax.settings import UserError
from gpicl_jax.training.step import BatchGradient

AXIS = "devices"


def gradient_in_parts(gradient: BatchGradient, parts: int) -> BatchGradient:
    """Returns the same means from `parts` slices, one after another, in the memory that one of them needs."""
    if parts == 1:
        return gradient

    def in_turns(params, tasks, keys, hyper):
        slices = _slices(keys, parts)
        shapes = jax.eval_shape(gradient, params, tasks, jax.tree.map(lambda leaf: leaf[0], slices), hyper)
        total, _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, gradient(params, tasks, part, hyper)), None),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
            slices,
        )
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return in_turns


def gradient_over_pmap(gradient: BatchGradient, num_devices: int) -> BatchGradient:
    """Returns, inside `pmap`, the mean over the devices. Each device takes one slice."""

    def on_each(params, tasks, keys, hyper):
        index = jax.lax.axis_index(AXIS)
        own = jax.tree.map(lambda leaf: leaf[index], _slices(keys, num_devices))
        return jax.lax.pmean(gradient(params, tasks, own, hyper), AXIS)

    return on_each


def gradient_over_mesh(gradient: BatchGradient, mesh: Mesh) -> BatchGradient:
    """Returns, inside `jit`, the mean over slices that the mesh shards."""

    def sharded(params, tasks, keys, hyper):
        slices = jax.lax.with_sharding_constraint(_slices(keys, mesh.size), NamedSharding(mesh, PartitionSpec(AXIS)))
        results = jax.vmap(gradient, in_axes=(None, None, 0, None), spmd_axis_name=AXIS)(params, tasks, slices, hyper)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), results)

    return sharded


def _slices(keys: Any, number: int) -> Any:
    """Maps [T, …] to [number, T / number, …]."""
    return jax.tree.map(lambda leaf: leaf.reshape(number, -1, *leaf.shape[1:]), keys)


def compile_chunk(
    chunk: Callable[..., Any], gradient: BatchGradient, *, parallel: str, devices: list[jax.Device]
) -> Callable[..., Any]:
    """Returns the compiled function (state, tasks, hyper) -> (state, metrics), which reuses the memory of `state`.

    Args:
      chunk: such a function with one more argument, `gradient`.
      gradient: gradient over a batch of keys.
      parallel: `pmap` or `jit`. They are the same on one device.
      devices: the devices to use, of all processes. Their number must divide the number of tasks in a batch.
    """
    run = spread_chunk(chunk, gradient, parallel=parallel, devices=devices)
    if len(devices) == 1 or parallel == "jit":
        return run
    lanes = _put(np.arange(len(devices)), over(devices))
    return lambda state, tasks, hyper: _of_all_processes(run(state, tasks, hyper, lanes), devices)


def spread_chunk(chunk: Callable[..., Any], gradient: BatchGradient, *, parallel: str, devices: list[jax.Device]) -> Any:
    """Returns the program of `compile_chunk`, which may be lowered for devices that are not there.

    That of `pmap` takes one more argument, one number for each device: `pmap` wants an axis, and uses nothing but its length.
    """
    if len(devices) == 1:
        return jax.jit(functools.partial(chunk, gradient=gradient), donate_argnums=0)
    if parallel == "jit":
        chunk = functools.partial(chunk, gradient=gradient_over_mesh(gradient, _mesh(devices)))
        return jax.jit(chunk, donate_argnums=0, out_shardings=on_all(devices))
    chunk = functools.partial(chunk, gradient=gradient_over_pmap(gradient, len(devices)))
    spread = functools.partial(jax.pmap, axis_name=AXIS, devices=devices, donate_argnums=0)
    return spread(lambda state, tasks, hyper, _: chunk(state, tasks, hyper), in_axes=(None, None, None, 0), out_axes=None)


def over(devices: list[jax.Device]) -> Sharding:
    """Returns the sharding that cuts the first axis into a part for each device."""
    return NamedSharding(_mesh(devices), PartitionSpec(AXIS))


def on_all(devices: list[jax.Device]) -> Sharding:
    """Returns the sharding with a whole copy on every device."""
    return SingleDeviceSharding(devices[0]) if len(devices) == 1 else NamedSharding(_mesh(devices), PartitionSpec())


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """Puts `tree` on every device once, so that no call moves it again. All processes must hold the same tree."""
    return jax.tree.map(lambda leaf: _put(leaf, on_all(devices)), tree)


def own_copy(tree: Any) -> Any:
    """Returns the copy of a replicated tree on this process's first device, to compute with it alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def largest(value: np.generic) -> jax.Array:
    """Returns the largest of the values of all processes, on all devices. It waits for nothing until it is read."""
    mesh, held = _mesh(jax.devices()), np.full(jax.local_device_count(), value)
    values = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(AXIS)), held)
    return _largest(NamedSharding(mesh, PartitionSpec()))(values)


@functools.cache
def _largest(sharding: Sharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=sharding)


def _of_all_processes(tree: Any, devices: list[jax.Device]) -> Any:
    """Returns the output of `pmap` as copies on all devices. In several processes it names only this process's devices."""
    if on_all(devices).is_fully_addressable:
        return tree

    def whole(leaf: jax.Array) -> jax.Array:
        copies = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, on_all(devices), copies)

    return jax.tree.map(whole, tree)


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,))


def _put(leaf: Any, sharding: Sharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    whole = np.asarray(jnp.asarray(leaf))  # device_put would send it to all processes, to see whether theirs are the same
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def keep_compiled(folder: Path) -> None:
    """Keeps compiled programs in `folder` and reuses them. It must be called before the first program is compiled.

    Raises:
      UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to --compile-cache {folder}: {error.strerror}; choose another folder") from None
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
