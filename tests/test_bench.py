"""`gpicl bench`: what it promises to find, the sameness of both sides, the harness itself. No speed is asserted."""

import collections
import dataclasses
import functools
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from gpicl_jax.arguments import BENCHMARKS
from gpicl_jax.bench import features, maml, measure, population, program, step, study, tasks
from gpicl_jax.bench.measure import Row, Side, by_turns, timing_rows
from gpicl_jax.bench.run import text
from gpicl_jax.build import make_learner, make_optimizer
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.figures import benchmarks
from gpicl_jax.hyper import hyper_from
from gpicl_jax.models import base
from gpicl_jax.sections import ENTRIES
from gpicl_jax.tasks import Episode
from gpicl_jax.training.step import init_state, num_params

HAS_TORCH = importlib.util.find_spec("torch") is not None
NO_TORCH = "torch is not installed: pip install torch"
SIZES = ("--data.size=4", "--tasks.tasks_per_step=2", "--tasks.length=12")
STUDY = ("--tasks.tasks_per_step=2", "--train.accumulate=2", "--learner.inner_steps=1")
MODEL = ("--model.width=16", "--model.num_layers=1", "--model.num_heads=2", "--model.head_size=8")
TINY = {
    "tasks": (*SIZES, "--tasks.sequences_per_task=3"),
    "step": (*SIZES, *MODEL, "--train.chunk=2"),
    "population": (*SIZES, *MODEL, "--train.chunk=2", "--train.steps=4"),
    "maml": (*SIZES, "--model.width=16"),
    "study": (
        "--data.size=4",
        "--model.name=mlp",
        "--model.width=16",
        *STUDY,
    ),  # its own network: below, beside that of PyTorch
    "inference": (*SIZES, *MODEL),
    "features": (*SIZES[1:], *MODEL, "--train.chunk=2", "--train.accumulate=1"),
}
# Of each benchmark: sides and quantities that its rows hold, without PyTorch and with it.
FOUND = {
    "tasks": [
        *((f"jax, {entries}", "tasks/s") for entries in ENTRIES),
        ("jax, normal, 2 tasks × 3 sequences", "× jax, normal"),
        ("jax, 2^24 tasks", "peak MB"),
    ],
    "step": [
        ("jax", "steps/s"),
        ("jax", "temporaries MB"),
        *((f"jax, {entries}, B = 2", "share of a step") for entries in ENTRIES),
        ("jax, normal, one task, B = 4", "share of a step"),
        ("jax, one task, B = 4", "× jax, B = 4"),
        ("share of the bound that is reached", "value"),
    ],
    "population": [("one vmapped program", "× one after another"), ("one vmapped program", "largest |Δ loss| after 4 steps")],
    "maml": [("jax", "meta-steps/s"), ("jax, remat", "temporaries MB")],
    "study": [("jax", "meta-steps/s"), ("jax, 2 devices", "meta-steps/s"), ("jax, remat, 1 inner steps", "temporaries MB")],
    "inference": [("jax", "µs/episode"), ("jax", "compile s")],
    "features": [("3,072 features", "× 64 features"), ("64 features", "µs/episode")],
}
FOUND_WITH_PYTORCH = {
    "tasks": [("jax, normal", "× pytorch"), ("pytorch, 2^16 tasks", "stored MB")],
    "step": [("jax", "× pytorch"), ("jax", "× pytorch, lean")],
    "population": [],
    "maml": [("jax", "× pytorch")],
    "study": [("jax", "× pytorch")],
    "inference": [("jax", "× pytorch"), ("jax", "largest |Δ logit|")],
    "features": [],
}


@pytest.fixture
def quick(monkeypatch):
    """Every side is called once a round, on few images; two processes measure memory, and one of PyTorch."""
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    monkeypatch.setattr(program, "NUM_IMAGES", 600)
    monkeypatch.setattr(population, "MEMBERS", 3)
    monkeypatch.setattr(study, "INNER_STEPS", (1,))
    monkeypatch.setattr(features, "_SIZES", (features._SIZES[0], features._SIZES[-1]))
    monkeypatch.setattr(step, "PRODUCT", {"cpu": 64})
    monkeypatch.setattr(step, "COPIED", 2**10)
    for name, value in {"OURS": (4, 24), "THEIRS": (4,), "TURNS": 1}.items():
        monkeypatch.setattr(tasks, name, value)


@pytest.fixture
def losses(monkeypatch):
    """What the JAX sides of the benchmarks of MAML return, call by call: {order: {side: losses}}."""
    found, make_sides = collections.defaultdict(dict), maml.make_sides

    def listen(side, losses):
        def run():
            losses.append(float(loss := side.run()))
            return loss

        return dataclasses.replace(side, run=run)

    def sides(order, *arguments):
        return {
            name: listen(side, found[order].setdefault(name, [])) if "jax" in name else side
            for name, side in make_sides(order, *arguments).items()
        }

    monkeypatch.setattr(maml, "make_sides", sides)
    return found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_promises(name, quick, losses, tmp_path, capsys, monkeypatch):
    if name == "study":  # maml measures both
        monkeypatch.setattr(maml, "_ORDERS", {"second order": False})
    compared = ["--pytorch"] if HAS_TORCH and FOUND_WITH_PYTORCH[name] else []
    file, results = tmp_path / "found.json", tmp_path / "results"
    options = ["--repeats", "2", "--json", str(file), "--results-dir", str(results), *compared]
    assert main(["bench", name, *TINY[name], *options]) == 0
    found = json.loads(file.read_text())
    assert found["benchmark"] == name and found["command"][:3] == ["gpicl", "bench", name]
    assert {"jax", "jaxlib", "flax", "torch"} <= set(found["packages"])
    assert found["threads"] >= 1 and found["python"] and found["devices"]
    rows = [Row(**row) for row in found["rows"]]
    for row in rows:
        may_be_zero = row.quantity == "stored MB" or "Δ" in row.quantity or row.quantity == "temporaries MB"
        assert math.isfinite(row.median) and row.low <= row.median <= row.high, row
        # a share is of a difference of times, which at this size is noise
        assert row.median > 0 or (may_be_zero and row.median == 0) or row.quantity == "share of a step", row
    there = {(row.side, row.quantity) for row in rows}
    assert {*FOUND[name], *(FOUND_WITH_PYTORCH[name] if compared else [])} <= there
    assert all(row.median < 1e-4 for row in rows if "Δ" in row.quantity)  # the same members, the same model
    printed = capsys.readouterr().out
    assert text(rows) in printed and "medians of 2 rounds" in printed
    table = pd.read_csv(results / f"{name}.csv")
    assert list(table.quantity) == [row.quantity for row in rows] and set(table.device) == {found["devices"][0]}
    assert (results / "benchmarks.png").read_bytes().startswith(b"\x89PNG")
    if name == "tasks":  # 16 bytes kept of each of 2^24 tasks would be 268 MB
        (ratio,) = (row.median for row in rows if row.side == "jax, 2^24 tasks" and row.quantity.startswith("/ "))
        assert ratio < 1.3
    if name == "study":  # meta-steps are the same on one device, recomputed and spread over two
        kept, *others = losses["second order"].values()
        assert len(others) == 2 and len(set(kept)) == len(kept) >= 3
        np.testing.assert_allclose(others, [kept] * 2, rtol=1e-5)


def test_sides_take_turns_and_the_first_round_does_not_count(monkeypatch):
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    calls = []
    sides = [Side(lambda name=name: calls.append(name)) for name in "abc"]
    by_turns(3, dict(enumerate(sides[:2])), {"last": sides[2]})
    assert "".join(calls[-9:]) == "abcabcabc" and len(calls) > 9
    assert all(side.seconds_R.shape == (3,) for side in sides)


def test_ratios_are_taken_round_by_round():
    """A machine that slows down in round 2 slows both sides: the ratio has no spread."""
    ours, theirs = (Side(print, seconds_R=np.array(seconds_R)) for seconds_R in ([1.0, 10.0, 1.0], [3.0, 30.0, 3.0]))
    rows = timing_rows("t", {"jax": ours, "pytorch": theirs}, "u/s")  # PyTorch's sides are compared with where none are named
    assert Row("t", "jax", "× pytorch", 3.0, 3.0, 3.0) in rows
    assert [row.side for row in rows if row.quantity == "u/s"] == ["jax", "pytorch"]
    assert not any(row.side == "pytorch" and row.quantity.startswith("×") for row in rows)
    rows = timing_rows("t", {"jax": ours}, "µs/unit", {"other": theirs})
    assert rows == [Row("t", "jax", "µs/unit", 1e6, 1e6, 8.2e6), Row("t", "jax", "× other", 3.0, 3.0, 3.0)]


def test_operations_by_hand_are_xlas():
    """At a size where products are nearly all of them; XLA counts the rest too."""
    overrides = ("--data.size=14", "--tasks.tasks_per_step=2", "--tasks.length=64", "--model.width=128", "--model.num_layers=2")
    config = load_config("bench/step", overrides)
    learner = make_learner(config)
    params = jax.eval_shape(learner.init, jax.random.key(0))
    shapes = Episode(jnp.zeros((2, 64, 196)), jnp.zeros((2, 64), jnp.int32), jnp.full(2, 64))

    def loss(params, episodes_B):
        return jax.vmap(lambda episode: learner.loss(params, episode, key=jax.random.key(0))[0])(episodes_B).mean()

    xlas = jax.jit(jax.grad(loss)).lower(params, shapes).cost_analysis()["flops"]
    flops, _ = step.work_by_hand(config, num_params(params))
    by_hand = flops - 2.0 * 2 * 64 * 196**2  # the projection is not in it
    assert 0.85 * xlas < by_hand < xlas


def tokens_config(*overrides):
    return load_config("bench/step", (*SIZES, *MODEL, "--model.num_layers=2", "--model.label_scale=2.0", *overrides))


def random_episodes(config, seed=0):
    num_features, length = config.data.size**2, config.tasks.length
    x_BLX = jax.random.normal(jax.random.key(seed), (3, length, num_features))
    y_BL = jax.random.randint(jax.random.key(seed + 1), (3, length), 0, 10)
    return Episode(x_BLX, y_BL, jnp.full(3, length // 2))


def as_torch(torch, *leaves):
    return [torch.tensor(np.array(leaf)) for leaf in leaves]


@pytest.mark.parametrize(("activation", "optimizer"), [("gelu", "adam"), ("relu", "adamw")])
def test_pytorchs_transformer_is_the_same_and_so_is_its_training(activation, optimizer):
    """The same weights give the same logits, and the same steps the same losses."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    from gpicl_jax.bench.pytorch import training_side
    from gpicl_jax.bench.pytorch.tasks import tokens
    from gpicl_jax.bench.pytorch.transformer import Transformer, add_gradient, transplant

    decay = ("--optimizer.weight_decay=0.1",) if optimizer == "adamw" else ()
    config = tokens_config(f"--model.activation={activation}", f"--optimizer.name={optimizer}", *decay)
    learner, optimizer, hyper, key = make_learner(config), make_optimizer(config), hyper_from(config), jax.random.key(0)
    state = jax.jit(functools.partial(init_state, learner, optimizer, curriculum=False))(hyper)
    params, opt_state = jax.tree.map(lambda leaf: leaf + 0.05, state.params), state.opt_state  # biases of zero hide mistakes
    module = Transformer(config)
    transplant(module, params)
    assert sum(leaf.numel() for leaf in module.parameters()) == num_params(params)
    episodes_B = random_episodes(config)
    x_BLX, y_BL = as_torch(torch, episodes_B.x_LX, episodes_B.y_L)
    tokens_BLT = tokens(x_BLX, y_BL.long(), 10, 2.0)
    ours_BLT = jax.vmap(lambda episode: base.tokens(episode.x_LX, episode.y_L, 10, 2.0))(episodes_B)
    np.testing.assert_array_equal(tokens_BLT.numpy(), ours_BLT)

    @jax.jit
    def step(params, opt_state):
        def mean_loss(params):
            return jax.vmap(lambda episode: learner.loss(params, episode, key=key)[0])(episodes_B).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer(hyper).update(gradients, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, loss

    logits_BLC = jax.jit(jax.vmap(lambda episode: learner.predict(params, episode, key=key)))(episodes_B)
    with torch.no_grad():
        np.testing.assert_allclose(module(tokens_BLT).numpy(), logits_BLC, atol=2e-5)
    side = training_side(config, module, lambda: add_gradient(module, (tokens_BLT, y_BL.long())))
    for _ in range(4):
        params, opt_state, ours = step(params, opt_state)
        np.testing.assert_allclose(side.run().item(), ours, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "sizes", "first_order"),
    [
        ("maml", TINY["maml"], "false"),
        ("maml", TINY["maml"], "true"),
        ("study", ("--data.size=16", "--model.padding=SAME", *STUDY), "false"),
    ],
)
def test_pytorchs_maml_has_the_same_meta_gradient(name, sizes, first_order):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    from gpicl_jax.bench.pytorch.maml import make_model, make_problems, meta_gradient
    from gpicl_jax.bench.pytorch.transformer import transplant

    overrides = ("--learner.inner_rate=0.3", f"--learner.first_order={first_order}")
    config = load_config(f"bench/{name}", (*sizes, *overrides))
    parts = program.Program(config)
    episodes_B = maml.problems(parts)
    params = jax.tree.map(lambda leaf: leaf + 0.1, jax.jit(parts.learner.init)(jax.random.key(0)))
    gradient, metrics = jax.jit(parts.given_gradient(config.train.accumulate))(params, None, episodes_B, None)
    model, expected = make_model(config), make_model(config)
    transplant(model, params)
    transplant(expected, gradient)
    given = make_problems(parts, episodes_B, "cpu")
    np.testing.assert_allclose(meta_gradient(model, given, config), metrics["loss"], rtol=1e-5)
    assert torch.is_grad_enabled()
    for (name, leaf), slope in zip(model.named_parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), slope.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("how", ["batch", "lean_batch"])
def test_pytorchs_tasks_are_projections_and_permutations(how, quick):
    """With identity images every example shows a column of A, whose entries must have variance 1/X; labels are permuted."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    from gpicl_jax.bench.pytorch.tasks import StoredTasks

    config = load_config("bench/tasks", ("--data.size=6", "--tasks.length=50"))
    tasks = StoredTasks(program.Program(config).tasks, "cpu")
    tasks.images_NX = torch.eye(36)[torch.arange(10) % 36]
    tasks.labels_N = torch.arange(10)
    tokens_BLT, y_BL = getattr(tasks, how)(64)
    assert tokens_BLT.shape == (64, 50, 46) and tokens_BLT.dtype == torch.float32
    x_BLX = tokens_BLT[..., :36]
    np.testing.assert_allclose(x_BLX.mean(), 0, atol=0.01)
    np.testing.assert_allclose(x_BLX.var() * 36, 1, rtol=0.05)
    firsts = set()
    for x_LX, y_L in zip(x_BLX, y_BL, strict=True):
        pairs = {(tuple(x.tolist()), int(y)) for x, y in zip(x_LX, y_L, strict=True)}
        assert len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs}) > 5  # label ↔ image, one to one
        firsts.add(min(pairs)[0])
    assert len(firsts) == 64  # no two tasks share a matrix


PROJECT = """
import wandb
import torchvision
from IPython.display import clear_output
from models import MLP
import torch
torch.set_float32_matmul_precision("medium")
class TaskAugmentor:
    def __init__(self, n_tasks, data_dim, device, draw_sequence, sequence_length):
        assert draw_sequence and device == "cpu"
        self.sizes = n_tasks, sequence_length, data_dim
    def transform(self, dataset, n_samples):
        assert n_samples == 1 and torch.get_float32_matmul_precision() == "medium"
        assert dataset.transform(dataset.data).dtype == torch.float32 and dataset.targets.dtype == torch.int64
        count, length, width = self.sizes
        dataset.data, dataset.targets = torch.zeros(count, length, width + 10), torch.zeros(count, length)
        return dataset
"""


def test_the_public_projects_generator_is_called_in_its_clone(tmp_path, quick):
    """It needs none of the packages that its file imports, and its precision stays its own."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    from gpicl_jax.bench.pytorch.project import Project

    (tmp_path / "datagen.py").write_text(PROJECT)
    tasks = program.Program(load_config("bench/tasks", (*SIZES, "--tasks.length=24"))).tasks
    tokens_BLT, y_BL = Project(tmp_path, tasks).batch(5)
    assert tokens_BLT.shape == (5, 24, 26) and y_BL.shape == (5, 24)
    assert torch.get_float32_matmul_precision() == "highest"
    assert importlib.util.find_spec("wandb") is None or importlib.util.find_spec("wandb").loader is not None


BAD_INPUT = {
    "no such benchmark": (["speed"], "invalid choice: 'speed'"),
    "too few rounds": (["tasks", "--repeats", "1"], "--repeats 1; expected 2 or more"),
    "unknown setting": (["tasks", "--tasks.lenght=5"], "did you mean tasks.length?"),
    "argument that is no setting": (["tasks", "--pytroch"], "--section.key=value"),
    "a dataset": (["tasks", "--data.train=mnist"], "draws random images"),
    "a number of tasks": (["tasks", "--tasks.num_tasks=16"], "changes nothing of gpicl bench tasks"),
    "parts of a step": (["step", "--train.accumulate=2"], "it takes data.size, data.channels"),
    "kept labels": (["step", "--tasks.permute_labels_prob=0.5"], "changes nothing of gpicl bench step"),
    "folder of the JSON file": (["tasks", "--json", "TMP/none/found.json"], "--json: cannot write"),
    "JSON file is a folder": (["tasks", "--json", "TMP"], "is a folder"),
    "results in a file": (["tasks", "--results-dir", "TMP/datagen.py/x"], "--results-dir: cannot write"),
    "no clone": (["tasks", "--pytorch-repo", "TMP/none"], "no datagen.py there"),
    "another project": (["tasks", "--pytorch-repo", "TMP"], "has no TaskAugmentor"),
    "a broken clone": (["step", "--pytorch-repo", "TMP/broken"], "cannot be imported: No module named 'nowhere'"),
    "tasks of the project in inference": (
        ["inference", "--pytorch-repo", "TMP"],
        "--pytorch-repo changes nothing of gpicl bench inference",
    ),
    "the project's MAML": (["maml", "--pytorch-repo", "TMP"], "learner, optimizer, --pytorch\n"),
    "PyTorch's population": (["population", "--pytorch"], "--pytorch changes nothing of gpicl bench population"),
    "a Transformer that PyTorch has not": (["inference", "--pytorch", "--model.smear_keys=true"], "leave out --pytorch"),
    "an optimiser that PyTorch has not": (["step", "--pytorch", "--optimizer.name=muon"], "plain Adam"),
    "one of other settings": (["step", "--pytorch", "--optimizer.name=sgd"], "plain Adam"),
    "blocks that PyTorch does not recompute": (["step", "--pytorch", "--model.remat=true"], "leave out --pytorch"),
    "MAML in another precision": (["maml", "--pytorch", "--model.dtype=bfloat16"], "is in float32"),
    "features beside PyTorch": (["features", "--pytorch"], "--pytorch changes nothing of gpicl bench features"),
    "one size of many": (["features", "--data.size=8"], "data.size"),
    "another learner": (["maml", "--learner.name=sgd"], "measures learner.name = 'maml'"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_a_mistake_is_one_line_before_anything_is_measured(name, quick, tmp_path, capsys, monkeypatch):
    arguments, message = BAD_INPUT[name]
    if any("--pytorch" in each for each in arguments):
        pytest.importorskip("torch", reason=NO_TORCH)
    (tmp_path / "datagen.py").write_text("nothing = 0\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "datagen.py").write_text("import nowhere\n")
    monkeypatch.setattr(measure, "_seconds", lambda *_: pytest.fail("it measured"))
    assert main(["bench", *(each.replace("TMP", str(tmp_path)) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("gpicl: error: ")


def test_pytorch_that_is_not_installed_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for option in (["--pytorch"], ["--pytorch-repo", "."]):
        assert main(["bench", "step", *option]) == 2
        assert f"{option[0]} needs PyTorch; install it with: pip install torch" in capsys.readouterr().err


def test_the_figure_has_a_panel_for_each_table_of_rates_and_one_for_memory():
    rates = [Row(table, side, "tasks/s", 2.0, 1.0, 3.0) for table in ("one", "two") for side in ("jax", "pytorch")]
    peaks = [
        Row("memory", f"{side}, 2^{n} tasks", "peak MB", 100.0, 90.0, 110.0) for side in ("jax", "pytorch") for n in (4, 24)
    ]
    stored = [Row("memory", f"pytorch, 2^{n} tasks", "stored MB", 2.0**n, 2.0**n, 2.0**n) for n in (4, 24)]
    figure = benchmarks(pd.DataFrame([*rates, *peaks, *stored, Row("one", "jax", "compile s", 1.0, 1.0, 1.0)]))
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "memory"]
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[2].lines}
    assert lines["pytorch: the stored tasks alone"] == [2.0**4, 2.0**24] and "jax: peak, measured" in lines
    colors = {patch.get_facecolor() for patch in figure.axes[0].patches}
    assert len(colors) == 2  # JAX and PyTorch
