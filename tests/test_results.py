"""The tables of README.md and results/ are what a command prints from the committed CSV: nothing in them is typed."""

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest

from gpicl_jax.experiments.engine.base import make_experiment
from gpicl_jax.experiments.engine.files import found
from gpicl_jax.registry import find, names

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("results_tables", ROOT / "results" / "tables.py")
tables = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tables)
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "results").glob("*/README.md"))]
EXPERIMENTS = {name.replace("-", "_"): name for name in names("experiment")}


def numbered_rows(text: str) -> list[str]:
    """The lines of Markdown tables that hold a number with a decimal point, outside code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if line.startswith("|") and re.search(r"\d\.\d", re.sub(r"`[^`]*`", "", line))]


def printed(folder: str) -> set[str]:
    """The lines that the experiment of that folder, and `results/tables.py`, print."""
    lines = [line for table in tables.TABLES.get(folder, list)() for line in table.splitlines()]
    for scale in find("experiment", EXPERIMENTS[folder]).scales if folder in EXPERIMENTS else ():
        csv = ROOT / "results" / folder / f"{scale}.csv"
        if csv.is_file():
            lines += found(make_experiment(EXPERIMENTS[folder], scale), pd.read_csv(csv), csv.parent).splitlines()
    return set(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_row_of_a_table_is_printed_from_a_committed_csv(page):
    folder = {ROOT: "", ROOT / "results": "README.md"}.get(page.parent, page.parent.name)
    typed = [row for row in numbered_rows(page.read_text()) if row not in printed(folder)]
    assert not typed, "\n".join(typed)


def test_a_typed_number_is_seen():
    """The check above can fail."""
    row = next(row for row in numbered_rows((ROOT / "README.md").read_text()) if row in printed(""))
    assert row.replace("82.6", "83.6") not in printed("")
