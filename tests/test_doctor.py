"""`gpicl doctor`: what it finds on a machine that is well, and that each check can fail, alone and in one line."""

import configparser
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from gpicl_jax.bench import counts, doctor, measure, program, step, targets
from gpicl_jax.cli import main
from gpicl_jax.config import load_config
from gpicl_jax.tasks import pinned

SMALL = """\
[data]
train = "digits"
size = 8
channels = 1
[tasks]
num_tasks = 1
tasks_per_step = 4
sequences_per_task = 2
length = 12
[model]
name = "mlp"
width = 16
num_layers = 1
[learner]
name = "instance"
[optimizer]
name = "adam"
learning_rate = 3e-2
[train]
chunk = 5
"""  # compiles in two seconds, and memorises its one task


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    config = tmp_path_factory.mktemp("configs") / "small.toml"
    config.write_text(SMALL)
    return str(config)


@pytest.fixture(autouse=True)
def quick(monkeypatch, small):
    """A small step, few images, and no GPU beside the CPU that JAX sees here."""
    monkeypatch.setattr(doctor, "CONFIG", small)
    monkeypatch.setattr(doctor, "LARGE", small)
    monkeypatch.setattr(doctor, "_num_gpus", lambda: 0)
    monkeypatch.setattr(program, "NUM_IMAGES", 600)
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    monkeypatch.setattr(step, "PRODUCT", {"cpu": 64})
    monkeypatch.setattr(step, "COPIED", 2**10)
    for name in ("TFDS_DATA_DIR", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_a_machine_that_is_well_has_a_line_for_each_check(tmp_path, capsys):
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    lines, rows = capsys.readouterr().out.splitlines(), json.loads((tmp_path / "doctor.json").read_text())
    assert [row["check"] for row in rows] == list(doctor.CHECKS)
    assert lines == [f"ok      {row['check']:<10} {row['text']}" for row in rows] and all(row["ok"] is True for row in rows)
    found = {name: value for row in rows for name, value in row.items()}
    assert found["platform"] == "cpu" and len(found["memory"]) == jax.device_count() and found["memory"][0] > 2**28
    assert found["digests"] == pinned.PINNED and {"digits", "random"} <= set(found["ready"])
    assert len(found["losses"]) == 4 and found["losses"][-1] < found["losses"][0]
    assert found["versions"]["jax"] == jax.__version__
    assert min(found[name] for name in ("step_seconds", "share", "gflop", "gb", "gb_per_second", "step_bytes")) > 0


def old_jax(monkeypatch, tmp_path):
    version = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.4.1" if name == "jax" else version(name))


def no_optax(monkeypatch, tmp_path):
    version = doctor.metadata.version

    def missing(name):
        if name == "optax":
            raise doctor.metadata.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)


def gpu_that_jax_does_not_see(monkeypatch, tmp_path, number=1):
    monkeypatch.setattr(doctor, "_num_gpus", NUM_GPUS)
    each = "GPU {0}: NVIDIA H100 80GB HBM3 (UUID: GPU-{0})\n  MIG 1g.10gb     Device  0: (UUID: MIG-{0})\n"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{''.join(map(each.format, range(number)))}'")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def gpu_and_jax_for_cpus_first(monkeypatch, tmp_path):
    gpu_that_jax_does_not_see(monkeypatch, tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu,cuda")


def jax_without_device(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda': no driver\nmore")

    monkeypatch.setattr(jax, "devices", fail)


def no_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", "/no/such")


def cache_in_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPICL_CACHE_DIR", str(tmp_path / "file" / "cache"))


def other_words(monkeypatch, tmp_path):
    monkeypatch.setitem(pinned.PINNED, "task_words", "0123456789abcdef")


def diverged(monkeypatch, tmp_path):
    config = tmp_path / "diverging.toml"
    config.write_text(SMALL.replace("3e-2", "1e30"))
    monkeypatch.setattr(doctor, "CONFIG", str(config))
    monkeypatch.setattr(doctor, "_trained", doctor._trained.__wrapped__)


def no_progress(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LOSS", 0.1)


def failing_compiler(monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas is too old\nmore")

    monkeypatch.setattr(doctor, "compile_apart", fail)
    monkeypatch.setattr(doctor, "_trained", doctor._trained.__wrapped__)


NUM_GPUS = doctor._num_gpus
ALL = {"training", "roofline", "largest"}
# What is broken, the checks that fail, and what the first of their lines says.
FAULTS = {
    old_jax: ({"versions"}, "jax is 0.4.1, expected <0.12,>=0.10; run .venv/bin/pip install -e ."),
    no_optax: ({"versions"}, "optax is missing, expected >=0.2.8; run"),
    gpu_that_jax_does_not_see: ({"devices"}, "sees only its CPU; install JAX for CUDA: .venv/bin/pip install -e '.[cuda]'"),
    gpu_and_jax_for_cpus_first: ({"devices"}, "NVIDIA GPU, but JAX sees only its CPU; unset JAX_PLATFORMS=cpu,cuda"),
    jax_without_device: (
        {"devices", "roofline", "largest"},
        "no device (Unable to initialize backend 'cuda': no driver); ",
    ),
    no_data_folder: ({"data"}, "TFDS_DATA_DIR=/no/such is no folder; set it to the folder of prepared sets, or unset it"),
    cache_in_a_file: ({"data"}, "file/cache; set GPICL_CACHE_DIR to a folder that can be written"),
    other_words: ({"tasks"}, "task_words have digest 1c2e43bd0ac76bcc, not 0123456789abcdef (PINNED of tasks/pinned.py)"),
    diverged: ({"training"}, "→ nan in 20 steps of"),
    no_progress: ({"training"}, "expected less than 0.1; compare with JAX_PLATFORMS=cpu gpicl doctor"),
    failing_compiler: (ALL, "JaxRuntimeError: INTERNAL: ptxas is too old; compare with JAX_PLATFORMS=cpu gpicl doctor"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_check_that_fails_is_one_line_and_hides_no_other(fault, monkeypatch, tmp_path, capsys):
    fault(monkeypatch, tmp_path)
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 1
    captured, rows = capsys.readouterr(), json.loads((tmp_path / "doctor.json").read_text())
    failed, said = FAULTS[fault]
    assert {row["check"] for row in rows if not row["ok"]} == failed and len(rows) == len(doctor.CHECKS)
    lines = captured.out.splitlines()
    assert len(lines) == len(rows) and sum(line.startswith("FAILED ") for line in lines) == len(failed)
    assert said in next(line for line in lines if line.startswith("FAILED ")) and "Traceback" not in captured.err


def test_the_file_has_all_that_was_found_before_doctor_is_ended(monkeypatch, tmp_path):
    """The check that takes longest is the last."""

    def ended():
        raise KeyboardInterrupt

    monkeypatch.setitem(doctor.CHECKS, "largest", ended)
    with pytest.raises(KeyboardInterrupt):
        doctor.run_doctor(tmp_path / "doctor.json")
    rows = json.loads((tmp_path / "doctor.json").read_text())
    assert [row["check"] for row in rows] == list(doctor.CHECKS)[:-1] and list(doctor.CHECKS)[-1] == "largest"
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]


def test_a_file_that_cannot_be_written_is_told_before_any_check(capsys):
    assert main(["doctor", "--json", "/no/such/doctor.json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "--json: cannot write /no/such/doctor.json" in captured.err


def test_an_installed_package_knows_what_setup_cfg_asks_for(monkeypatch):
    of_clone = {each.name: each.specifier for each in doctor._requirements()}
    monkeypatch.setattr(configparser.ConfigParser, "read", lambda *_: [])
    of_package = {each.name: each.specifier for each in doctor._requirements()}
    for name in ("python", "jax", "flax", "optax", "orbax-checkpoint"):
        assert of_package[name] == of_clone[name] and of_clone[name]


def gpu(limit):
    """A device that says it is an H100 of `limit` bytes."""
    statistics = {"bytes_limit": limit} if limit else None
    return SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3", memory_stats=lambda: statistics)


def test_a_machine_with_a_gpu_may_be_compared_with_its_cpu(monkeypatch, tmp_path):
    """A check that fails advises it."""
    gpu_that_jax_does_not_see(monkeypatch, tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    text, numbers = doctor.check_devices()
    assert text.endswith("; JAX sees 0 of 1 NVIDIA GPU, by JAX_PLATFORMS=cpu") and numbers["platform"] == "cpu"


@pytest.mark.parametrize(
    ("visible", "number"),
    [(None, 8), ("0,1,2", 3), ("GPU-5,MIG-7,3", 3), ("0,8,1", 1), ("0,,1", 1), ("", 0), ("-1", 0), ("NoDevFiles", 0)],
)
def test_gpus_that_jax_does_not_see_are_told(visible, number, monkeypatch, tmp_path):
    """CUDA_VISIBLE_DEVICES leaves those up to the first that there is not, as CUDA reads it."""
    gpu_that_jax_does_not_see(monkeypatch, tmp_path, number=8)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for seen in range(1, max(1, number) + 1):
        monkeypatch.setattr(jax, "devices", lambda seen=seen: [gpu(2**30)] * seen)
        text, numbers = doctor.check_devices()
        assert numbers["system_gpus"] == number and text.endswith(f"; JAX sees {seen} of {number} NVIDIA GPUs") == (
            seen < number
        )
    monkeypatch.setattr(jax, "devices", jax.local_devices)
    if number:
        with pytest.raises(doctor.UserError, match="JAX sees only its CPU"):
            doctor.check_devices()
    else:
        assert "NVIDIA" not in doctor.check_devices()[0]


@pytest.mark.parametrize(
    ("seconds", "share", "cached"),
    [(1e-2, 0.8, False), (5e-3, 0.2, True)],  # products take 1 ms, memory 8
)
def test_a_known_chip_is_compared_with_its_peak_rates(seconds, share, cached, monkeypatch):
    """Memory does not bind a step that is faster than it."""
    chip = targets.CHIPS["h100"]
    work = {"flops": 1e-3 * chip.float32, "cost": counts.Cost(bytes_moved=8e-3 * chip.bandwidth)}
    trained = doctor.Trained((2.3, 1.0), seconds, 1.0, **work, memory=0)
    monkeypatch.setattr(jax, "devices", lambda: [gpu(1)])
    monkeypatch.setattr(doctor, "_trained", lambda: trained)
    text, numbers = doctor.check_roofline()
    assert numbers["gflop_per_second"] == chip.float32 / 1e9 and numbers["gb_per_second"] == chip.bandwidth / 1e9
    assert numbers["share"] == pytest.approx(share) and f"{share:.1%} of" in text and f"peak of {chip.about}" in text
    assert ("left out" in text) == cached


def test_the_largest_batch_about_fills_the_memory(monkeypatch, small):
    """XLA says so of a program of that size. Memory grows in proportion, up to what XLA rounds."""
    monkeypatch.setattr(jax, "devices", lambda: [gpu(2**23)])
    text, numbers = doctor.check_largest()
    largest = numbers["largest"]
    assert largest > 8 and text.startswith(f"{small} needs ") and text.endswith(f"; about {largest} fit, by proportion")
    needed = doctor._step_bytes(program.Program(load_config(small, (f"--tasks.tasks_per_step={largest}",))))
    assert needed == pytest.approx(2**23, rel=0.1)


def test_a_device_without_room_or_without_a_known_size_fails(monkeypatch):
    monkeypatch.setattr(doctor, "_step_bytes", lambda program: 10_000 + 1000 * program.shape[0])
    for limit, said in (
        (10_999, "by proportion not even 1 fits, so choose a smaller"),
        (None, "unset XLA_PYTHON_CLIENT_ALLOCATOR"),
    ):
        monkeypatch.setattr(jax, "devices", lambda limit=limit: [gpu(limit)])
        with pytest.raises(doctor.UserError, match=said) as error:
            doctor.check_largest()
        assert "--" not in str(error.value)  # doctor has no settings
    monkeypatch.setattr(jax, "devices", lambda: [gpu(11_000)])
    assert doctor.check_largest()[1]["largest"] == 1


@pytest.mark.parametrize("grown", [0, -1000])
def test_no_largest_batch_is_told_where_a_smaller_one_needs_as_much(grown, monkeypatch):
    monkeypatch.setattr(doctor, "_step_bytes", lambda program: 10_000 + grown * (program.shape[0] > 2))
    monkeypatch.setattr(jax, "devices", lambda: [gpu(10_000)])
    text, numbers = doctor.check_largest()
    assert text.endswith("and no less with 2, so the largest is not known") and "largest" not in numbers
    monkeypatch.setattr(jax, "devices", lambda: [gpu(8_000)])
    with pytest.raises(doctor.UserError, match="not even 1 fits"):
        doctor.check_largest()


@pytest.mark.process
def test_this_machine_is_well():
    """At the command's own sizes, in a process as a user has it."""
    as_a_user = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-m", "gpicl_jax", "doctor"], capture_output=True, text=True, env=as_a_user)
    assert done.returncode == 0 and done.stdout.count("\n") == len(doctor.CHECKS), done.stdout + done.stderr
