"""One training chunk on one device, or data-parallel on all of them: by `pmap`, or by `jit` over a mesh.

Keys are drawn for the whole batch everywhere and then sliced, so that the batch does not depend on the number of
devices. Each device takes the gradient of its slice of tasks; the mean over devices is the gradient of the batch.
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
from gpicl_jax.training.step import BatchGradient, TrainChunk

AXIS = "devices"


def gradient_over_pmap(gradient: BatchGradient, num_devices: int) -> BatchGradient:
    """Inside `pmap`: the gradient of this device's slice of tasks, averaged over the devices."""

    def sliced(params, tasks, keys, hyper):
        index = jax.lax.axis_index(AXIS)

        def own(leaf):
            size = leaf.shape[0] // num_devices
            return jax.lax.dynamic_slice_in_dim(leaf, index * size, size)

        return jax.lax.pmean(gradient(params, tasks, jax.tree.map(own, keys), hyper), AXIS)

    return sliced


def gradient_over_mesh(gradient: BatchGradient, mesh: Mesh) -> BatchGradient:
    """Inside `jit`: slices of tasks as a leading axis that the mesh shards, averaged over that axis."""

    def sliced(params, tasks, keys, hyper):
        def split(leaf):
            leaf = leaf.reshape(mesh.size, -1, *leaf.shape[1:])
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(AXIS)))

        in_slices = jax.vmap(gradient, in_axes=(None, None, 0, None), spmd_axis_name=AXIS)
        results = in_slices(params, tasks, jax.tree.map(split, keys), hyper)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), results)

    return sliced


def compile_chunk(
    gradient: BatchGradient,
    make_chunk: Callable[[BatchGradient], TrainChunk],
    *,
    parallel: str,
    devices: list[jax.Device],
) -> TrainChunk:
    """The compiled chunk; the state that is passed in is donated, so do not use it again.

    Args:
      gradient: over a batch of keys.
      make_chunk: builds the chunk from a gradient.
      parallel: `pmap` or `jit`; the same on one device.
      devices: the devices to use, of all processes; their number must divide the number of tasks in a batch.
    """
    if len(devices) == 1:
        return jax.jit(make_chunk(gradient), donate_argnums=0)
    if parallel == "pmap":
        chunk = make_chunk(gradient_over_pmap(gradient, len(devices)))
        spread = functools.partial(jax.pmap, axis_name=AXIS, devices=devices, donate_argnums=0)
        # pmap wants one argument with the device axis; nothing but its length is used.
        run = spread(lambda state, tasks, hyper, _: chunk(state, tasks, hyper), in_axes=(None, None, None, 0), out_axes=None)
        lanes = _put(np.arange(len(devices)), NamedSharding(_mesh(devices), PartitionSpec(AXIS)))
        return lambda state, tasks, hyper: _of_all_processes(run(state, tasks, hyper, lanes), devices)
    gradient = gradient_over_mesh(gradient, _mesh(devices))
    return jax.jit(make_chunk(gradient), donate_argnums=0, out_shardings=on_all(devices))


def on_all(devices: list[jax.Device]) -> Sharding:
    """A whole copy on every device."""
    return SingleDeviceSharding(devices[0]) if len(devices) == 1 else NamedSharding(_mesh(devices), PartitionSpec())


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
    """Puts `tree` on every device once, so that no call moves it again. All processes must hold the same tree."""
    return jax.tree.map(lambda leaf: _put(leaf, on_all(devices)), tree)


def own_copy(tree: Any) -> Any:
    """Of a tree on all devices the copy on this process's first one, with which it can compute alone."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def largest(value: np.generic) -> jax.Array:
    """The largest of the values of all processes, on all devices; nothing waits for it until it is read."""
    mesh = _mesh(jax.devices())
    held = np.full(jax.local_device_count(), value)
    values = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(AXIS)), held)
    return _max(values, NamedSharding(mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnums=1)
def _max(values: jax.Array, sharding: Sharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(values.max(), sharding)


def _of_all_processes(tree: Any, devices: list[jax.Device]) -> Any:
    """What `pmap` gave back, as copies on all devices: in a run of several processes it names its own devices alone."""
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
    """Keeps compiled programs in `folder`, and takes them from there the next time; call it before the first is compiled.

    Raises:
      UserError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to --compile-cache {folder}: {error.strerror}; choose another folder") from None
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
