"""What the README shows must run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.process
def test_python_example_runs_and_learns_in_context():
    """It trains a fraction of the digits config, and is far above chance on a task and images it has never seen."""
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    as_a_user = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, env=as_a_user)
    assert done.returncode == 0, done.stderr
    assert float(re.fullmatch(r"queries right: (0?\.\d+)\n", done.stdout)[1]) > 0.5, done.stdout


def test_every_setting_and_path_that_it_names_exists():
    from gpicl_jax.config import load_config

    found = 0
    for line in README.replace("--section.key=value", "").replace("=$n", "=16").splitlines():
        quoted = re.findall(r"'(--\w+\.\w+=[^'`]+)'", line)  # quoted, with spaces
        settings = quoted + re.findall(r"(--\w+\.\w+=[^\s`]+)", re.sub(r"'--[^']*'", "", line))
        load_config("digits_transformer", tuple(settings))
        found += len(settings)
    assert found >= 10
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / path).exists(), path
