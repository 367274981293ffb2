"""Writes `memory.csv`: temporaries that XLA plans for a meta-gradient, with and without recomputed steps.

python results/comparison/memory.py
"""

from pathlib import Path

import jax
import pandas as pd

from gpicl_jax.build import make_learner
from gpicl_jax.config import load_config
from gpicl_jax.tasks import Episode

STEPS = (1, 5, 15, 45, 135)
CASES = {f"maml, {steps} inner steps": ("maml", f"--learner.inner_steps={steps}") for steps in STEPS}
CASES["maml_online, 100 steps"] = ("maml_online",)
CASES["vsml, X = 3,072"] = ("vsml", "--data.size=32", "--data.channels=3")


def megabytes(name: str, *overrides: str) -> float:
    """Returns the MiB of temporaries for the gradient of the mean loss over 8 episodes of 100."""
    config = load_config(f"comparison/{'paper' if name == 'vsml' else 'laptop'}/{name}", overrides)
    learner, features = make_learner(config), config.data.num_features
    shapes = (8, 100, features), (8, 100), (8,)
    episodes_B = Episode(
        *(jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, ("float32", "int32", "int32"), strict=True))
    )

    def mean_loss(params, episodes_B):
        return jax.vmap(lambda episode: learner.loss(params, episode, key=jax.random.key(1))[0])(episodes_B).mean()

    params = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.jit(jax.grad(mean_loss)).lower(params, episodes_B).compile().memory_analysis().temp_size_in_bytes / 2**20


if __name__ == "__main__":
    rows = []
    for case, (name, *settings) in CASES.items():
        section = "model" if name == "vsml" else "learner"
        found = [megabytes(name, *settings, f"--{section}.remat={remat}") for remat in ("true", "false")]
        rows.append((case, *found))
        print(*rows[-1], sep=", ")
    columns = ["case", "recomputed", "kept"]
    pd.DataFrame(rows, columns=columns).to_csv(Path(__file__).parent / "memory.csv", index=False, float_format="%.2f")
