"""What the README and the pages beside it show must run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / folder / "README.md" for folder in ("bin", "configs", "results")),
]
README, CONTRIBUTING, *_ = TEXTS = [page.read_text() for page in PAGES]
TEXT = "\n".join(TEXTS)


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "told", "least"),
    [(0, r"accuracy: (0?\.\d+|1\.00)\nequivariant_transformer \d+\n", 0.9), (1, r"queries right: (0?\.\d+)\n", 0.5)],
)
def test_python_examples_run_and_learn_in_context(number, told, least):
    """The second trains a fraction of the digits config, and is far above chance on a task and images it has never seen."""
    example = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[number]
    as_a_user = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, env=as_a_user)
    assert done.returncode == 0, done.stderr
    assert float(re.fullmatch(told, done.stdout)[1]) > least, done.stdout


def test_the_readme_is_short():
    assert len(README.split()) < 1800 and len(re.findall("```python", README)) == 2


def test_every_setting_and_path_that_it_names_exists():
    from gpicl_jax.config import load_config, settings_by_name
    from gpicl_jax.registry import find, names, settings_of

    text = TEXT.replace(CONTRIBUTING, "")  # whose settings are of its own examples
    known = {*settings_by_name(load_config("digits_transformer")), *(f"model.{name}" for name in names("model"))}
    known |= {f"{room}.{key}" for room in ("model", "learner") for name in names(room) for key in settings_of(find(room, name))}
    named = set(re.findall(r"(?<![-/\w])((?:data|tasks|model|learner|optimizer|train|eval)\.[a-z_]+)(?![\w(./])", text))
    assert len(named) > 15 and not named - known, named - known
    found = 0
    for line in text.replace("--section.key=value", "").splitlines():
        quoted = re.findall(r"'(--\w+\.\w+=[^'`]+)'", line)  # quoted, with spaces
        settings = quoted + re.findall(r"(--\w+\.\w+=[^\s`]+)", re.sub(r"'--[^']*'", "", line))
        load_config("digits_transformer", tuple(settings))
        found += len(settings)
    assert found >= 8
    for page in PAGES:
        for path in re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text()):
            assert (page.parent / path).exists(), (page, path)


def test_every_command_that_it_shows_is_understood():
    """As argparse reads it; what is left over are settings, of the commands that take them."""
    from gpicl_jax.arguments import parser

    commands = re.findall(r"^(?:\.venv/bin/)?(gpicl|bin/train) (.*)$", TEXT, flags=re.MULTILINE)
    assert len(commands) > 20
    for program, line in commands:
        words = shlex.split(line.replace("…", ""), comments=True)
        if "--help" in words:
            continue
        options, rest = parser().parse_known_args(["train", *(words or ["digits"])] if program == "bin/train" else words)
        assert all(re.match(r"--\w+\.\w+=", word) for word in rest), line
        assert not rest or options.command in ("train", "bench", "compile"), line
