"""The arguments of `gpicl`: its commands, their options and their help."""

import argparse
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from gpicl_jax import __version__
from gpicl_jax.config import packaged_configs
from gpicl_jax.settings import UserError

_BENCH_FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "bench").glob("*.py"))}
BENCHMARKS = {  # the files of bench/ that say what they take, and the first lines of their docstrings
    name: content.split('"""')[1].split("\n")[0] for name, content in _BENCH_FILES.items() if "\nTAKES = " in content
}

_HELP = """\
example:
  gpicl train digits

All settings of a config: gpicl settings. In a clone that bin/train set up, gpicl is .venv/bin/gpicl.
"""
_TRAIN_HELP = """\
examples:
  gpicl train digits --tasks.num_tasks=1024 --run-dir runs/tasks-1024
  gpicl train runs/tasks-1024/config.toml --run-dir runs/tasks-1024 --resume

CONFIG is a .toml file or the name of a packaged config:
{names}
comparison/paper/ has those of comparison/laptop/ at the paper's sizes, for GPUs.
Any setting may follow as --section.key=value. All settings: gpicl settings.
"""
_EVALUATE_HELP = """\
example:
  gpicl evaluate runs/mnist --datasets mnist fashion_mnist kmnist random ./mine.npz

A dataset is a TFDS name, 'digits', 'random', or a path: ./file.npz (arrays images, labels), ./folder (a sub-folder per class).
The report replaces learning_curves.csv, learning_curves.png and summary.json of the run.
"""
_EXPORT_HELP = """\
examples:
  gpicl export runs/mnist mnist.npz --checkpoint best
  gpicl export runs/scaling/laptop/POPULATION member.npz --member 0

FILE holds the parameters and a JSON card: settings, data, the numbers of summary.json, commit, versions, sha256. It opens by
gpicl_jax.open_run("FILE"), or as InContextClassifier(weights="FILE"), without the run's folder. No pickle.
"""
_EXPERIMENT_HELP = """\
experiments:
{names}

scales:
  smoke   a minute or two, on digits: shows that it runs
  laptop  minutes to hours on 2 CPU cores; needs MNIST or Omniglot (gpicl datasets says how to get them)
  paper   the paper's sizes, for GPUs; not run yet

examples:
  gpicl experiment scaling --scale smoke
  gpicl experiment transition --scale laptop --part 1/2     (and 2/2 in another process: they share the work)
  gpicl experiment comparison --scale laptop --learners transformer sgd --seeds 1
  gpicl experiment scaling --scale paper --permute 0 --dry-run --for h100

The command adds rows to SCALE.csv in --results-dir, and draws the figure there anew. After a stop it continues.
"""
_FIGURE_HELP = """\
example:
  gpicl figure scaling --scale laptop

The command draws the figure in --results-dir anew, and leaves SCALE.csv as it is.
"""
_BENCH_HELP = """\
benchmarks:
{names}

examples:
  gpicl bench step --pytorch
  gpicl bench tasks --pytorch-repo ~/gpicl --json tasks.json
  gpicl bench tasks --tasks.tasks_per_step=8 --results-dir results/benchmarks

Images are random. Settings that a benchmark uses may follow as --section.key=value; others are refused.
All settings: gpicl settings. --results-dir writes NAME.csv anew, and draws benchmarks.png from all CSV files of DIR.
JAX and PyTorch use all processors that this process may use: taskset -c 0,1 gpicl bench … gives them two.
"""
_COMPILE_HELP = """\
targets:
{names}
  NAME is one chip, NAME:8 or NAME:16 that many GPUs, v5e:2x4 or v4:2x2x2 a slice of TPUs.

examples:
  gpicl compile comparison/paper/transformer --for h100
  gpicl compile comparison/paper/lstm --for v5e v5e:2x4 --parallel=jit --model.width=64

Nothing runs, and no accelerator is needed: XLA compiles the program that gpicl train would run. GPUs need the extra aot-cuda,
TPUs aot-tpu. Steps/s are an estimate from the makers' peak numbers, not a promise. A set that is not ready here is replaced by
60,000 blank images. The exit code is 1 where a program does not fit.
"""
_DOCTOR_HELP = """\
example:
  gpicl doctor --json doctor.json

The exit code is 1 where a check fails. Its line says what to do. A minute on 2 CPU cores.
"""
_SETTINGS_HELP = """\
examples:
  gpicl settings                  names and sections
  gpicl settings tasks            the settings of one section
  gpicl settings model            all models and what they are; likewise learner, optimizer, dataset, source, experiment
  gpicl settings model.lstm       the settings of one model, learner, optimizer or source; lstm alone is enough
"""


class _Parser(argparse.ArgumentParser):
    """A parser with errors of one line. Its epilog may be a function, which is called when help is printed."""

    def format_help(self) -> str:
        self.epilog = self.epilog() if callable(self.epilog) else self.epilog
        return super().format_help()

    def error(self, message: str):
        raise UserError(f"{message}; see '{self.prog} --help'")


def experiments() -> dict[str, str]:
    """Returns the names and first lines of the package's experiments, from their files. Nothing is imported.

    Example:
      >>> experiments()["scaling"]
      'Model size × number of tasks, seen and unseen tasks.'
    """
    folder = Path(__file__).parent / "experiments"
    texts = (path.read_text(encoding="utf-8") for path in (*folder.glob("*.py"), *folder.glob("*/experiment.py")))
    registered = re.compile(r'^@register\("(.+)"\)\nclass .*:\n    """(.+?)(?:""")?$', flags=re.MULTILINE)
    return dict(sorted(each for text in texts for each in registered.findall(text)))


def _experiment_help() -> str:
    return _EXPERIMENT_HELP.format(names=_listed(experiments()))


def _train_help() -> str:
    names = ", ".join(name for folder in ("", "omniglot/", "comparison/laptop/") for name in packaged_configs(f"{folder}*"))
    return _TRAIN_HELP.format(names=textwrap.fill(names, 120, initial_indent="  ", subsequent_indent="  "))


def _listed(abouts: dict[str, str]) -> str:
    width = max(map(len, abouts))
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in abouts.items())


def _add_train(train: argparse.ArgumentParser) -> None:
    add = train.add_argument
    add("config", metavar="CONFIG", help="see below")
    add("--run-dir", type=Path, metavar="DIR", help="the run's folder (default: runs/CONFIG-DATE-TIME)")
    add("--resume", action="store_true", help="continue the run in --run-dir, bit for bit")
    add("--parallel", choices=("pmap", "jit"), default="pmap", help="how several devices share a step")
    _add_dry_run(train)
    add("--profile-steps", metavar="A:B", help="trace the chunks of steps A to B into the run's profile/")
    add("--compile-cache", type=Path, metavar="DIR", help="keep compiled programs in DIR for later runs")
    about = "how several processes connect: auto (TPU pods and other clusters), slurm (under srun), manual"
    add("--distributed", choices=("off", "auto", "slurm", "manual"), default="off", help=about)
    add("--coordinator", metavar="HOST:PORT", help="manual: where process 0 listens")
    add("--num-processes", type=int, metavar="N", help="manual: number of processes")
    add("--process-id", type=int, metavar="I", help="manual: number of this one, 0 to N − 1")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    add = evaluate.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run")
    add("--episodes", type=int, metavar="N", help="episodes for each kind of task (default: the run's)")
    add("--checkpoint", choices=("latest", "best"), default="latest", help="best: lowest validation loss (default: latest)")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="base datasets to test on (default: the run's)")


def _add_export(export: argparse.ArgumentParser) -> None:
    add = export.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="the folder of a run, or of the members of an experiment")
    add("file", type=Path, metavar="FILE", help="the .npz file to write")
    add("--checkpoint", choices=("latest", "best"), default="latest", help="best: lowest validation loss (default: latest)")
    add("--member", type=int, metavar="I", help="which member of an experiment's population, from 0")


def _add_experiment(experiment: argparse.ArgumentParser) -> None:
    add = experiment.add_argument
    add("name", metavar="NAME", help="see below")
    add("--scale", default="smoke", help="smoke, laptop or paper, see below (default: smoke)")
    add("--seeds", type=int, metavar="N", help="number of meta-training seeds (default: the scale's)")
    add("--part", default="1/1", metavar="I/N", help="only the I-th of every N units of work")
    add("--runs-dir", type=Path, metavar="DIR", help="folder of the runs (default: runs/NAME)")
    add("--results-dir", type=Path, metavar="DIR", help="folder of table and figure (default: results/NAME)")
    add("--learners", nargs="+", default=[], metavar="NAME", help="comparison: learners to train (default: all)")
    about = "comparison: sets to test on; features: files to test on, the first also to train on"
    add("--datasets", nargs="+", default=[], metavar="NAME", help=about)
    add("--seconds", type=float, metavar="N", help="comparison: seconds of meta-training for each cell")
    add("--permute", type=float, nargs="+", default=[], metavar="P", help="scaling: only chances of permuted labels (0 or 1)")
    _add_dry_run(experiment)


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="train nothing: say what there is to do, and what it needs")
    about = "with --dry-run: also its hours and memory on a GPU or TPU that is not there, see gpicl compile --help"
    command.add_argument("--for", dest="target", metavar="TARGET", help=about)


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add("name", metavar="NAME", choices=BENCHMARKS, help="see below")
    add("--pytorch", action="store_true", help="also measure our plain PyTorch version")
    add("--pytorch-repo", type=Path, metavar="PATH", help="clone of the public PyTorch project, to measure its tasks too")
    add("--repeats", type=int, default=7, metavar="N", help="rounds that count (default: 7)")
    add("--json", type=Path, metavar="FILE", help="write all results to FILE")
    add("--results-dir", type=Path, metavar="DIR", help="write NAME.csv and benchmarks.png in DIR anew")


def _add_compile(compile_: argparse.ArgumentParser) -> None:
    add = compile_.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="configs, as of gpicl train")
    add("--for", dest="targets", nargs="+", required=True, metavar="TARGET", help="what to compile for, see below")
    add("--parallel", choices=("pmap", "jit"), default="pmap", help="how several devices share a step")
    add("--largest", action="store_true", help="also find the largest tasks.tasks_per_step that fits")
    add("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    add("--results-dir", type=Path, metavar="DIR", help="add the rows that DIR/compile.csv lacks")


def _compile_help() -> str:
    from gpicl_jax.bench.targets import CHIPS

    return _COMPILE_HELP.format(names=_listed({name: chip.told for name, chip in CHIPS.items()}))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Meta-train a network that learns within its context, and test it on tasks it has never seen."
    made = _Parser(prog="gpicl", description=about, epilog=_HELP, **options)
    made.add_argument("--version", action="version", version=f"gpicl_jax {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, epilog: str | Callable[[], str]) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about, epilog=epilog, **options)

    train = command("train", "meta-train a learner", _train_help)
    evaluate = command("evaluate", "meta-test a run again, and replace its report", _EVALUATE_HELP)
    export = command("export", "write a trained learner to one file", _EXPORT_HELP)
    experiment = command("experiment", "make a table or figure: train and test what it lacks", _experiment_help)
    figure = command("figure", "draw an experiment's figure again, from its CSV", _FIGURE_HELP)
    bench = command("bench", "measure speed and memory, also of PyTorch", _BENCH_HELP.format(names=_listed(BENCHMARKS)))
    compile_ = command("compile", "compile a run for GPUs or TPUs that are not there: does it fit?", _compile_help)
    doctor = command("doctor", "check this machine: versions, devices, data, tasks, speed, memory", _DOCTOR_HELP)
    example = "example:\n  gpicl datasets --data.dir ~/tensorflow_datasets\n"
    datasets = command("datasets", "list the base datasets, and how to get missing ones", example)
    settings = command("settings", "list all settings of a config", _SETTINGS_HELP)
    _add_train(train)
    _add_evaluate(evaluate)
    _add_export(export)
    _add_experiment(experiment)
    _add_bench(bench)
    _add_compile(compile_)
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write all lines and numbers to FILE")
    figure.add_argument("name", metavar="NAME", help="an experiment, see gpicl experiment --help")
    figure.add_argument("--scale", default="smoke", help="smoke, laptop or paper (default: smoke)")
    figure.add_argument("--results-dir", type=Path, metavar="DIR", help="the experiment's folder (default: results/NAME)")
    settings.add_argument("name", metavar="NAME", nargs="?", default="", help="a section, or a class: model.lstm")
    about = "your Python file with models, learners, optimizers, datasets, sources or experiments, which is run"
    for each in (train, evaluate, export, experiment, figure, bench, compile_, settings):
        each.add_argument("--import", dest="imports", type=Path, action="append", default=[], metavar="FILE.py", help=about)
    about = "folder of prepared TFDS sets (default: TFDS_DATA_DIR, or ~/tensorflow_datasets; evaluate: the run's)"
    for each in (evaluate, experiment, datasets):
        each.add_argument("--data.dir", dest="data_dir", default="", metavar="DIR", help=about)
    return made


def part(text: str) -> tuple[int, int]:
    """Returns I/N as two numbers, 1 ≤ I ≤ N.

    Example:
      >>> part("1/4")
      (1, 4)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= parts:
        raise UserError(f"--part {text}; expected I/N with 1 ≤ I ≤ N, e.g. 1/4")
    return index, parts
