"""The house keeps its own rules: imports go one way, and files and functions stay small."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "gpicl_jax").rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_COMPLEX = 300, 40, 15


def rooms() -> dict[str, int]:
    """The rooms and files that CONTRIBUTING's table of folders names, each with its row."""
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## The folders")[1].split("Code imports from the rows above")[0]
    rows = [re.findall(r"`([\w./]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `gpicl_jax/")]
    return {
        Path(name).stem if name.endswith(".py") else name.strip("/").split("/")[-1]: row
        for row, each in enumerate(rows)
        for name in each
    }


def test_code_imports_from_the_rows_above_it_only():
    rows, wrong = rooms(), []
    for file in FILES:
        room = file.relative_to(ROOT / "gpicl_jax").parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpicl_jax."):
                other = node.module.split(".")[1]
                if rows[other] > rows[room]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {node.module}")
    assert not wrong and len(rows) > 20


def complexity(function: ast.AST) -> int:
    """McCabe's number: one, and one for each branch, loop, handler, condition of a comprehension, `and` and `or`."""
    found, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef):
            continue  # counts for itself
        found += isinstance(node, ast.If | ast.For | ast.While | ast.IfExp | ast.ExceptHandler | ast.Assert)
        found += 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
        found += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        waiting += ast.iter_child_nodes(node)
    return found


def length(function: ast.FunctionDef) -> int:
    """Lines without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return function.end_lineno - body[0].lineno + 1


def test_files_and_functions_are_small():
    wrong = []
    for file in FILES:
        text = file.read_text()
        wrong += [f"{file.name}: {text.count(chr(10))} lines"] if text.count("\n") > MOST_LINES else []
        for each in ast.walk(ast.parse(text)):
            if isinstance(each, ast.FunctionDef):
                wrong += [f"{file.name}, {each.name}: {length(each)} lines"] if length(each) > MOST_LINES_OF_A_FUNCTION else []
                wrong += [f"{file.name}, {each.name}: complexity {complexity(each)}"] if complexity(each) > MOST_COMPLEX else []
    assert not wrong
