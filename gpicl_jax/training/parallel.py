"""One training chunk on one device, or data-parallel on all of them: by `pmap`, or by `jit` over a mesh.

Keys are drawn for the whole batch everywhere and then sliced, so that the batch does not depend on the number of
devices. Each device takes the gradient of its slice of tasks; the mean over devices is the gradient of the batch.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
      devices: the devices to use; their number must divide the number of tasks in a batch.
    """
    if len(devices) == 1:
        return jax.jit(make_chunk(gradient), donate_argnums=0)
    if parallel == "pmap":
        chunk = make_chunk(gradient_over_pmap(gradient, len(devices)))
        spread = functools.partial(jax.pmap, axis_name=AXIS, devices=devices, donate_argnums=0)
        # pmap wants one argument with the device axis; nothing but its length is used.
        run = spread(lambda state, tasks, hyper, _: chunk(state, tasks, hyper), in_axes=(None, None, None, 0), out_axes=None)
        mesh = Mesh(np.array(devices), (AXIS,))
        lanes = jax.device_put(np.arange(len(devices)), NamedSharding(mesh, PartitionSpec(AXIS)))
        return lambda state, tasks, hyper: run(state, tasks, hyper, lanes)
    mesh = Mesh(np.array(devices), (AXIS,))
    return jax.jit(
        make_chunk(gradient_over_mesh(gradient, mesh)),
        donate_argnums=0,
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def replicate(tree, devices: list[jax.Device]):
    """Puts `tree` on every device once, so that no call moves it again."""
    if len(devices) == 1:
        return jax.device_put(tree, devices[0])
    return jax.device_put(tree, NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec()))
