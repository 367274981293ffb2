"""Exported runs: the same bytes, the same predictions, no pickle; what is damaged, foreign or newer is one line."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import gpicl_jax
from gpicl_jax.build import make_learner
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.experiments.engine.table import Cell
from gpicl_jax.runs import export
from gpicl_jax.runs.export import flat, read_export, write_export
from gpicl_jax.runs.folder import RunFolder
from gpicl_jax.settings import UserError
from gpicl_jax.training.loop import train
from gpicl_jax.training.opening import open_run
from gpicl_jax.training.population import Population
from gpicl_jax.training.trainer import Trainer
from tests.helpers import TINY, tiny_config


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A trained run, without its meta-test."""
    config = tiny_config("--train.steps=10", "--train.seed=3")
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "tiny", config)
    with folder.lock():
        train(
            Trainer(config, devices=jax.devices()[:1]),
            folder,
            {"commit": "abc", "packages": {"jax": "0"}, "command": ["gpicl"]},
        )
    folder.write_json("summary.json", {"steps": 10, "datasets": {"digits": {}}})
    return folder.path


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_run_and_its_file_open_as_the_same_learner(run_dir, tmp_path, capsys):
    file = tmp_path / "tiny.npz"
    assert main(["export", str(run_dir), str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: transformer, ")
    run, copy = open_run(run_dir), gpicl_jax.open_run(str(file))
    assert run.learner == copy.learner and equal(run.params, copy.params)
    assert jax.tree.structure(run.params) == jax.tree.structure(copy.params)
    _, card = read_export(file)
    assert (
        card["step"] == 10 and card["summary"]["steps"] == 10 and card["commit"] == "abc" and card["packages"] == {"jax": "0"}
    )
    assert card["config"]["train"]["seed"] == 3 and card["config"]["data"]["train"] == ["digits"]
    assert str(run_dir) not in json.dumps(card)


def test_the_same_run_gives_the_same_bytes_and_only_arrays(run_dir, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert main(["export", str(run_dir), str(tmp_path / name), "--checkpoint", "best"]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name not in ("a.npz", "b.npz")]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert {file[name].dtype.str for name in file.files} == {"<f4", "|u1"}


def test_no_folder_of_this_machine_enters_the_card(tmp_path):
    config = tiny_config('--data.train=["/home/me/mine.npz", "/home/me/flowers"]', "--data.dir=/home/me/sets")
    write_export(tmp_path / "a.npz", make_learner(config).init(jax.random.key(0)), config, {})
    settings = read_export(tmp_path / "a.npz")[1]["config"]["data"]
    assert settings["train"] == ["mine.npz", "flowers/"] and settings["dir"] == ""
    assert open_run(tmp_path / "a.npz").config.model == config.model


def test_a_member_of_a_population_is_exported(tmp_path):
    configs = [tiny_config("--train.steps=10", f"--train.seed={seed}") for seed in (0, 1)]
    folder = RunFolder(tmp_path / "population")
    folder.path.mkdir()
    about = {"commands": [{"commit": "abc", "packages": {}}], "members": []}
    about["members"] = [Cell({"width": 16, "seed": seed}, config).record for seed, config in enumerate(configs)]
    folder.write_json("members.json", about)
    population = Population(configs)
    params_M = population.members(train(population, folder).state.params)
    assert main(["export", str(folder.path), str(tmp_path / "one.npz"), "--member", "1"]) == 0
    run = open_run(tmp_path / "one.npz")
    assert run.config == configs[1] and equal(run.params, jax.tree.map(lambda leaf_M: leaf_M[1], params_M))
    assert read_export(tmp_path / "one.npz")[1]["member"]["seed"] == 1


def test_an_exported_file_opens_without_orbax():
    code = "import sys, gpicl_jax; gpicl_jax.open_run('default'); print([each for each in sys.modules if 'orbax' in each])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_weights_of_the_package_are_small_and_say_what_they_were_trained_on():
    file = Path(gpicl_jax.__file__).parent / "weights" / "default.npz"
    assert file.stat().st_size < 2e6
    _, card = read_export(file)
    assert card["config"]["data"]["train"] == ["mnist", "fashion_mnist", "cifar10"] and card["commit"] and card["step"] == 12000
    setup = (Path(gpicl_jax.__file__).parents[1] / "setup.cfg").read_text()
    assert "weights/*.npz" in setup


def rewritten(file, change):
    """The arrays of a file after `change`, written as numpy writes them."""
    with np.load(file) as old:
        arrays = {name: old[name] for name in old.files}
    card = json.loads(arrays["card"].tobytes())
    arrays = change(arrays, card) or arrays
    if "card" in arrays:
        arrays["card"] = np.frombuffer(json.dumps(card).encode(), np.uint8)
    with open(file, "wb") as new:
        np.savez(new, **arrays)


def in_a_parameter(arrays, card):
    name = next(name for name in arrays if name.startswith("params/"))
    arrays[name] = arrays[name] + np.float32(1e-3)


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a number": (lambda file: rewritten(file, in_a_parameter), "its sha256 is not that of its content"),
    "a setting": (lambda file: rewritten(file, lambda _, card: card["config"]["model"].update(num_heads=4)), "its sha256"),
    "a bit": (flipped, "is damaged"),
    "half of it": (
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "is damaged or no exported run",
    ),
    "nothing": (lambda file: file.write_bytes(b""), "is damaged or no exported run"),
    "text": (lambda file: file.write_text("weights"), "is damaged or no exported run"),
    "a zip": (lambda file: zipfile.ZipFile(file, "w").writestr("a.txt", "a"), "has no card"),
    "arrays": (lambda file: rewritten(file, lambda arrays, _: {"images": np.zeros(3)}), "it has no card"),
    "an object": (lambda file: np.savez(file, card=np.array([{}], object)), "is damaged or no exported run"),
    "one array": (lambda file: np.save(open(file, "wb"), np.zeros(3)), "is damaged or no exported run"),  # noqa: SIM115
    "a newer one": (lambda file: rewritten(file, lambda _, card: card.update(format=2)), "has format 2, and this"),
    "none": (lambda file: file.unlink(), "no file or folder"),
}


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_is_no_exported_run_is_one_line(name, tmp_path):
    config = tiny_config()
    file = tmp_path / "a.npz"
    write_export(file, make_learner(config).init(jax.random.key(0)), config, {})
    damage, message = DAMAGES[name]
    damage(file)
    with pytest.raises(UserError, match=message) as error:
        open_run(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_parameters_of_another_version_are_refused(tmp_path):
    config = tiny_config()
    params = make_learner(config).init(jax.random.key(0))
    params["head"].pop("bias")
    write_export(tmp_path / "a.npz", params, config, {"commit": "abc"})
    with pytest.raises(UserError, match=r"has other parameters than this version's transformer; use the .* commit abc"):
        open_run(tmp_path / "a.npz")


def test_what_cannot_be_exported_is_one_line(run_dir, tmp_path, capsys, monkeypatch):
    (tmp_path / "population").mkdir()
    RunFolder(tmp_path / "population").write_json("members.json", {"commands": [], "members": [{"seed": 0}]})
    RunFolder.create(tmp_path / "bare", load_config(TINY))
    file = str(tmp_path / "a.npz")
    for arguments, message in {
        (str(tmp_path / "none"), file): "no run in",
        (str(tmp_path / "bare"), file): "no checkpoint in",
        (str(tmp_path / "population"), file): "give --member I, from 0 to 0",
        (str(tmp_path / "population"), file, "--member", "1"): "has 1; give 0 to 0",
        (str(tmp_path / "population"), file, "--member", "0"): "of an older version",
        (str(run_dir), file, "--member", "0"): "leave out --member",
        (str(run_dir), str(tmp_path / "no" / "a.npz")): "cannot write",
    }.items():
        assert main(["export", *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    assert main(["export", str(run_dir), file]) == 2
    assert "share the run's folder instead" in capsys.readouterr().err
    assert not Path(file).exists()


def test_names_are_those_of_the_tree():
    assert flat({"b": [1, (2,)], "a": {"c": 3}}) == {"a/c": 3, "b/0": 1, "b/1/0": 2}
