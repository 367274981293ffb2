"""`gpicl compile`: targets, errors, exit codes. Every learner is compiled for a GPU and for TPUs where their compilers are."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from gpicl_jax.bench import compile as compiling
from gpicl_jax.bench import compile_command, targets
from gpicl_jax.bench.compile import compile_for, largest_batch
from gpicl_jax.bench.compile_command import row_of, run_compile, table
from gpicl_jax.bench.targets import CHIPS, GIB, find_target
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.experiments.comparison_rows import ROWS
from gpicl_jax.settings import UserError
from gpicl_jax.training import parallel as parallel_module
from gpicl_jax.training.step import num_params
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY, tiny_config

HAS = {
    "gpu": importlib.util.find_spec("jax_cuda12_plugin") is not None and importlib.util.find_spec("nvidia") is not None,
    "tpu": importlib.util.find_spec("libtpu") is not None,
}
TINY_TASKS = (
    *("--data.train=digits", "--data.size=8", "--data.channels=1", "--tasks.length=12", "--tasks.tasks_per_step=4"),
    *("--tasks.sequences_per_task=1", "--train.chunk=2", "--optimizer.name=adam", "--tasks.num_tasks=infinite"),
)
LEARNERS = {
    **{name: () for name in ("lstm", "outer_product_lstm", "fast_weights", "vsml", "vsml_without_symmetries")},
    **{name: ("--model.num_layers=1",) for name in ("transformer", "context_query", "encoder_decoder", "equivariant")},
    **{name: () for name in ("mlp", "maml", "maml_online")},
}


def test_every_row_of_the_comparison_that_trains_is_compiled_or_has_the_program_of_one_that_is():
    same = {"transformer_paper", "maml_online_hidden", "finetune", "finetune_hidden", "sgd", "sgd_from_zeros"}
    assert {*LEARNERS} | same >= set(ROWS)


def target_of(name):
    target = find_target(name)
    if not HAS[target.chip.platform]:
        pytest.skip(f"no compiler for {name}: pip install -e '.[aot-cuda,aot-tpu]'")
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        pytest.skip("JAX looks for accelerators; set JAX_PLATFORMS=cpu")
    return target


@pytest.mark.parametrize(
    ("name", "chips", "message"),
    [
        ("h10", 0, "did you mean h100"),
        ("tpu", 0, "allowed: a6000"),
        ("h100:2x4", 0, "along 1 axes, e.g. h100:8"),
        ("v5e:8", 0, "along 2 axes, e.g. v5e:2x4"),
        ("v4:2x2", 0, "along 3 axes"),
        ("h100:0", 0, "expected a number of chips"),
        ("h100:-1", 0, "expected a number of chips"),
        ("a100", 1, ""),
        ("a100:16", 16, ""),
        ("v5e:16x16", 256, ""),
        ("v4:2x2x4", 16, ""),
    ],
)
def test_names_of_targets(name, chips, message):
    if chips:
        assert find_target(name).num_chips == chips
        return
    with pytest.raises(UserError, match=message):
        find_target(name)


@pytest.mark.parametrize(("name", "extra"), [("h100", "aot-cuda"), ("v5e", "aot-tpu")])
def test_a_missing_compiler_is_told_with_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"needs .*; install it: .*\[{extra}\]"):
        targets.devices_of(find_target(name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--for", "h10"], "did you mean h100"),
        (["digits", "--for", "v5e:3x3"], "not divisible by the 9 devices"),
        (["digit", "--for", "h100"], "did you mean"),
        (["digits", "--for", "h100", "--model.widht=3"], "width"),
        (["digits"], "--for"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(["compile", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


class _lowered:
    """A spread chunk that keeps the text of what is lowered, by `lower` or by a call."""

    def __init__(self, texts, spread, *given, **options):
        self.texts, self.run = texts, spread(*given, **options)

    def lower(self, *given):
        lowered = self.run.lower(*given)
        self.texts.append(lowered.as_text())
        return lowered

    def __call__(self, *given):
        self.lower(*given)
        return self.run(*given)


class Host:
    """A target that this machine can compile for: its own CPU, under the name and with the numbers of an H100."""

    @pytest.fixture(autouse=True)
    def _host(self, monkeypatch):
        monkeypatch.setattr(compiling, "devices_of", lambda target: jax.devices()[: target.num_chips])
        monkeypatch.setattr(compiling, "compiler_options", lambda _: {})
        monkeypatch.setattr(compile_command, "prepare", lambda: None)


class TestOnThisMachine(Host):
    """All but the compiler for accelerators, with this machine's own."""

    @pytest.mark.parametrize(("name", "parallel"), [("h100", "pmap"), ("h100:2", "pmap"), ("h100:2", "jit")])
    def test_the_program_is_the_one_that_train_runs(self, name, parallel, monkeypatch):
        config, texts = tiny_config(), []
        monkeypatch.setattr(compiling, "spread_chunk", functools.partial(_lowered, texts, parallel_module.spread_chunk))
        monkeypatch.setattr(parallel_module, "spread_chunk", functools.partial(_lowered, texts, parallel_module.spread_chunk))
        ours = compile_for(config, find_target(name), parallel)
        trainer = Trainer(config, devices=jax.devices()[: find_target(name).num_chips], parallel=parallel)
        trainer.chunk(trainer.state())
        assert len(texts) == 2 and texts[0] == texts[1]
        assert ours.flops > 0 and ours.cost.bytes_moved > 0 and bool(ours.cost.reduced) == (name != "h100")

    @pytest.mark.parametrize("parallel", ["pmap", "jit"])
    def test_devices_share_the_work_and_send_the_gradient(self, parallel):
        config = tiny_config()
        alone, both = compile_for(config, find_target("h100"), parallel), compile_for(config, find_target("h100:2"), parallel)
        assert both.flops == alone.flops / 2 and both.arguments <= alone.arguments * 1.01
        params = num_params(jax.eval_shape(compiling.make_program(config).learner.init, jax.random.key(0)))
        assert 4 * params <= both.cost.reduced < 4 * params + 10_000  # and the metrics
        assert both.limits["collectives"] > 0 == alone.limits["collectives"]

    def test_what_does_not_fit_exits_with_1_and_says_by_how_much(self, monkeypatch, capsys, tmp_path):
        chip = CHIPS["h100"]
        monkeypatch.setitem(CHIPS, "h100", chip._replace(memory=200_000))
        given = {"parallel": "pmap", "largest": False, "json_file": tmp_path / "all.json", "results": None}
        assert run_compile([TINY], (), ["h100"], **given) == 1
        assert "does not fit, by 0.00 GiB" in capsys.readouterr().out
        assert json.loads((tmp_path / "all.json").read_text())[0]["fits"] is False
        monkeypatch.setitem(CHIPS, "h100", chip)
        assert run_compile([TINY], (), ["h100"], **given) == 0

    def test_the_largest_batch_fits_and_one_more_share_of_it_does_not(self, monkeypatch):
        config = tiny_config()
        compiled = compile_for(config, find_target("h100"), "pmap")
        monkeypatch.setitem(CHIPS, "h100", CHIPS["h100"]._replace(memory=int(8 * compiled.needed)))
        target = find_target("h100")
        largest = largest_batch(config, target, "pmap", compiled._replace(target=target))
        fits = {
            number: compile_for(compiling.changed(config, tasks={"tasks_per_step": number}), target, "pmap").fits
            for number in (largest, largest + max(1, largest // 10))
        }
        assert largest > 4 and list(fits.values()) == [True, False]

    def test_where_no_batch_fits_it_is_said(self, monkeypatch, capsys):
        monkeypatch.setitem(CHIPS, "h100", CHIPS["h100"]._replace(memory=1000))
        given = {"parallel": "pmap", "largest": True, "json_file": None, "results": None}
        assert run_compile([TINY], (), ["h100"], **given) == 1
        assert "no number of tasks fits" in capsys.readouterr().out

    def test_a_digest_of_figures_alone_is_found_again(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(compile_command, "_digest", lambda _: "01234567")
        given = {"parallel": "pmap", "largest": False, "json_file": None, "results": tmp_path}
        for _ in range(2):
            run_compile([TINY], (), ["h100"], **given)
        assert len(pd.read_csv(tmp_path / "compile.csv")) == 1 and "has it" in capsys.readouterr().out

    def test_rows_that_a_csv_has_are_not_made_again(self, tmp_path, monkeypatch, capsys):
        given = {"parallel": "pmap", "largest": False, "json_file": None, "results": tmp_path / "new"}
        run_compile([TINY], (), ["h100"], **given)
        with monkeypatch.context() as patch:
            patch.setattr(compile_command, "compile_for", None)
            assert run_compile([TINY], (), ["h100"], **given) == 0
        assert "has it" in capsys.readouterr().out
        (row,) = pd.read_csv(tmp_path / "new" / "compile.csv").to_dict("records")
        assert row["target"] == "h100" and row["fits"] and row["bound"] in ("products", "memory")
        run_compile([TINY], ("--model.width=24", "--train.seed=3"), ["h100"], **given)
        run_compile([TINY], ("--model.width=24", "--train.seed=4"), ["h100"], **given)  # a seed is not compiled in
        assert len(pd.read_csv(tmp_path / "new" / "compile.csv")) == 2

    def test_files_that_cannot_be_written_are_told_before_anything_is_compiled(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(compile_command, "compile_for", None)
        for option in ("--json", "--results-dir"):
            (tmp_path / "file").write_text("")
            assert main(["compile", TINY, "--for", "h100", option, str(tmp_path / "file" / "x.json")]) == 2
            assert capsys.readouterr().err.count("\n") == 1

    def test_what_meta_learns_nothing_is_one_line(self, capsys):
        assert main(["compile", "comparison/laptop/sgd", "--for", "h100", "--data.train=digits"]) == 2
        assert "meta-learns nothing" in capsys.readouterr().err

    def test_a_program_that_xla_refuses_is_one_line_and_a_file(self, monkeypatch, capsys):
        monkeypatch.setattr(compiling, "compiler_options", lambda _: {"xla_no_such_option": 1})
        assert main(["compile", TINY, "--for", "h100"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "XLA cannot compile this for h100: " in error
        assert "xla_no_such_option" in Path(error.split("all that it says is in ")[1].strip()).read_text()

    def test_a_set_that_is_not_ready_is_replaced_by_blank_images(self, tmp_path):
        config = load_config("configs/mnist_14x14.toml", (f"--data.dir={tmp_path}",))
        source = compiling.stand_in_tasks(config).source
        assert source.name == "mnist" and source.num_features == 196 and not list(tmp_path.iterdir())

    def test_a_set_that_nobody_has_is_one_line(self, capsys):
        assert main(["compile", TINY, "--for", "h100", "--data.train=minst"]) == 2
        assert "did you mean mnist?" in capsys.readouterr().err

    def test_the_roofline_is_the_slowest_of_its_limits(self):
        config = tiny_config()
        compiled = compile_for(config, find_target("h100"), "pmap")
        chip = compiled.target.chip
        assert compiled.limits["products"] == compiled.flops / chip.float32
        assert compiled.limits["memory"] == compiled.cost.bytes_moved / chip.bandwidth
        row = row_of("tiny", config, "pmap", compiled)
        assert row["steps_per_second"] == pytest.approx(1 / max(compiled.limits.values()))
        assert row["hours"] == pytest.approx(config.train.steps * compiled.seconds / 3600)
        assert f"{row['temporaries_gib']:.2f} of temporaries" in table(row)


@pytest.mark.compile
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("target", "parallel"), [("h100", "pmap"), ("v5e:2x2", "pmap"), ("v5e:2x2", "jit")])
def test_every_learner_compiles(name, target, parallel):
    config = load_config(f"comparison/laptop/{name}", (*TINY_TASKS, *LEARNERS[name]))
    compiled = compile_for(config, target_of(target), parallel)
    assert compiled.fits and 0 < compiled.needed < 4 * GIB and compiled.flops > 0 and np.isfinite(compiled.seconds)
    assert bool(compiled.cost.collectives) == (compiled.target.num_chips > 1)


@pytest.mark.compile
def test_a_batch_beyond_the_memory_of_a_tpu_does_not_fit():
    """Its compiler refuses such a program, where that of a GPU gives its size."""
    sizes = ("--tasks.tasks_per_step=40000", "--model.num_layers=1")
    config = load_config("comparison/laptop/transformer", (*TINY_TASKS, *sizes, "--tasks.length=100"))
    assert not compile_for(config, target_of("v5e"), "pmap").fits


@pytest.mark.compile
def test_the_command_runs_as_a_process_without_an_accelerator():
    target_of("h100")
    command = [sys.executable, "-m", "gpicl_jax", "compile", TINY, "--for", "h100", "--train.chunk=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "fits" in done.stdout and "steps/s" in done.stdout
