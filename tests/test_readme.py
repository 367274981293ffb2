"""What the README shows must run."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_example_runs_and_learns(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    names = runpy.run_path(str(tmp_path / "example.py"))
    episodes, learner = names["episodes"], names["trainer"].learner
    assert episodes.x_LX.shape == (1, 8, 100, 64)
    assert int(names["state"].step) == 150
    predict = jax.vmap(lambda episode: learner.predict(names["state"].params, episode, key=jax.random.key(0)))
    logits = predict(jax.tree.map(lambda leaf: leaf[0], episodes))
    right = np.asarray(logits.argmax(-1) == episodes.y_L[0])
    assert right[:, -20:].mean() > 0.5 > 0.3 > right[:, 0].mean()


def test_every_setting_and_path_that_it_names_exists():
    from gpicl_jax.config import load_config

    settings = re.findall(r"(--\w+\.\w+=[^\s`]+)", README.replace("--section.key=value", "").replace("=$n", "=16"))
    assert len(settings) >= 3
    load_config("digits", tuple(settings))
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / path).exists(), path
