"""Features of a frozen network, for `gpicl experiment features`: writes mnist_features.npz and cifar10_features.npz here.

The network is one layer: 64 whitened 6×6 colour patches of CIFAR-10's training images as filters, ReLU, and the means over the
four quadrants (Coates et al., 2011, without the classifier). It was never trained on labels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gpicl_jax.tasks.sources.images import load

FILTERS, SIDE, IMAGES = 64, 6, 20_000


def images(name, split):
    """Pixels in 0 … 1 [N, 32, 32, 3], and labels [N]."""
    found = load(name, split, size=32, channels=3)
    return np.float32(found.images_NX[:IMAGES]).reshape(-1, 32, 32, 3) / 255, np.asarray(found.labels_N[:IMAGES])


rng = np.random.default_rng(0)
pictures, _ = images("cifar10", "train")
picked = zip(*rng.integers([len(pictures), 27, 27], size=(50_000, 3)).T, strict=True)
patches = np.stack([pictures[n, i : i + SIDE, j : j + SIDE].ravel() for n, i, j in picked])
patches = (patches - patches.mean(axis=1, keepdims=True)) / (patches.std(axis=1, keepdims=True) + 0.04)
values, vectors = np.linalg.eigh(np.cov(patches.T))
filters = patches[:FILTERS] @ (vectors / np.sqrt(values + 0.1)) @ vectors.T
filters = np.float32(filters / np.linalg.norm(filters, axis=1, keepdims=True)).reshape(FILTERS, SIDE, SIDE, 3)


@jax.jit
def features(x):
    layout = ("NHWC", "OHWI", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, filters, (1, 1), "VALID", dimension_numbers=layout))[:, :26, :26]
    return x.reshape(-1, 2, 13, 2, 13, FILTERS).mean(axis=(2, 4)).reshape(len(x), -1)


for name, split in (("mnist", "train"), ("cifar10", "test")):
    x, labels = images(name, split)
    parts = [np.asarray(features(jnp.asarray(x[at : at + 500]))) for at in range(0, len(x), 500)]
    np.savez(f"{name}_features.npz", features=np.concatenate(parts), labels=labels)
