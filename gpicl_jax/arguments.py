"""The arguments of `gpicl`: its commands, their options and their help."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from gpicl_jax import __version__
from gpicl_jax.config import packaged_configs
from gpicl_jax.settings import UserError

_BENCH_FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "bench").glob("*.py"))}
BENCHMARKS = {  # the files of bench/ that say what they take, and the first lines of their docstrings
    name: content.split('"""')[1].split("\n")[0] for name, content in _BENCH_FILES.items() if "\nTAKES = " in content
}

_TRAIN_HELP = """\
example:
  gpicl train digits --tasks.num_tasks=1024 --run-dir runs/transition-1024

CONFIG is a .toml file or a name inside the package ({names}).
Any setting may follow as --section.key=value.
"""
_EVALUATE_HELP = """\
example:
  gpicl evaluate runs/mnist --datasets mnist fashion_mnist kmnist random ./mine.npz

A dataset is a TFDS name, 'digits', 'random', or a path: ./file.npz (arrays images, labels), ./folder (a sub-folder per class).
"""
_EXPERIMENT_HELP = """\
experiments:
{names}

examples:
  gpicl experiment scaling --scale smoke
  gpicl experiment transition --scale laptop --part 1/2     (and 2/2 in another process: they share the work)
  gpicl experiment comparison --scale laptop --learners transformer sgd --seeds 1

What is done is not done again: run the same command again to go on.
"""
_BENCH_HELP = """\
benchmarks:
{names}

examples:
  gpicl bench step --pytorch
  gpicl bench tasks --pytorch-repo ~/gpicl --json tasks.json
  gpicl bench tasks --tasks.tasks_per_step=8 --results-dir results/benchmarks

Images are random; sizes may follow as --section.key=value; what a benchmark does not follow is refused.
Both sides use all processors that this process may use: taskset -c 0,1 gpicl bench … gives them two.
"""
_SETTINGS_HELP = """\
examples:
  gpicl settings                  names and sections
  gpicl settings tasks            the settings of one section
  gpicl settings model            all models, and what they are; likewise learner, optimizer, dataset, source, experiment
  gpicl settings model.lstm       the settings of one model, learner, optimizer or source; lstm alone will do
"""


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line. An epilog may be a function, which is called when help is asked for."""

    def format_help(self) -> str:
        self.epilog = self.epilog() if callable(self.epilog) else self.epilog
        return super().format_help()

    def error(self, message: str):
        raise UserError(f"{message}; see '{self.prog} --help'")


def experiments() -> dict[str, str]:
    """Returns the names of the package's experiments, and what each is about, from their files; nothing is imported.

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


def _listed(abouts: dict[str, str]) -> str:
    width = max(map(len, abouts))
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in abouts.items())


def _add_train(train: argparse.ArgumentParser) -> None:
    add = train.add_argument
    add("config", metavar="CONFIG")
    add("--run-dir", type=Path, metavar="DIR", help="the run's folder (default: runs/CONFIG-DATE-TIME)")
    add("--resume", action="store_true", help="continue the run in --run-dir, bit for bit")
    add("--parallel", choices=("pmap", "jit"), default="pmap", help="how several devices share a step")
    add("--profile-steps", metavar="A:B", help="trace the chunks of steps A to B into the run's profile/")
    add("--compile-cache", type=Path, metavar="DIR", help="keep compiled programs in DIR for later runs")
    found = "how several processes find each other: auto (TPU pods and other clusters), slurm (under srun), manual"
    add("--distributed", choices=("off", "auto", "slurm", "manual"), default="off", help=found)
    add("--coordinator", metavar="HOST:PORT", help="manual: where process 0 listens")
    add("--num-processes", type=int, metavar="N", help="manual: how many there are")
    add("--process-id", type=int, metavar="I", help="manual: which this one is, 0 to N − 1")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    add = evaluate.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR")
    add("--episodes", type=int, metavar="N", help="episodes of each kind of task (default: the run's)")
    add("--checkpoint", choices=("latest", "best"), default="latest", help="best: on validation tasks")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="to test on (default: the run's own)")


def _add_experiment(experiment: argparse.ArgumentParser) -> None:
    add = experiment.add_argument
    add("name", metavar="NAME", help="see below")
    add("--scale", default="smoke", help="smoke (minutes), laptop (hours), paper (a GPU); default: smoke")
    add("--seeds", type=int, metavar="N", help="meta-training seeds (default: the scale's)")
    add("--part", default="1/1", metavar="I/N", help="only the I-th of every N units of work")
    add("--runs-dir", type=Path, metavar="DIR", help="for the runs (default: runs/NAME)")
    add("--results-dir", type=Path, metavar="DIR", help="for table and figure (default: results/NAME)")
    add("--learners", nargs="+", default=[], metavar="NAME", help="comparison: rows (default: all)")
    tested = "comparison: to test on; features: all to test on, the first to train on"
    add("--datasets", nargs="+", default=[], metavar="NAME", help=tested)
    add("--seconds", type=float, metavar="N", help="comparison: of meta-training for each cell")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add("name", metavar="NAME", choices=BENCHMARKS, help=", ".join(BENCHMARKS))
    add("--pytorch", action="store_true", help="measure our plain PyTorch version too")
    add("--pytorch-repo", type=Path, metavar="PATH", help="clone of the public project: measure its tasks too")
    add("--repeats", type=int, default=7, metavar="N", help="rounds that count (default: 7)")
    add("--json", type=Path, metavar="FILE", help="write all that was found")
    add("--results-dir", type=Path, metavar="DIR", help="bring NAME.csv and benchmarks.png there up to date")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    about = "Meta-train a network that learns within its context, and test it on tasks it has never seen."
    made = _Parser(prog="gpicl", description=about, epilog="example:\n  gpicl train digits\n", **options)
    made.add_argument("--version", action="version", version=f"gpicl_jax {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, epilog: str | Callable[[], str]) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about, epilog=epilog, **options)

    train = command("train", "meta-train a learner", _TRAIN_HELP.format(names=", ".join(packaged_configs("*"))))
    evaluate = command("evaluate", "meta-test a run again", _EVALUATE_HELP)
    experiment = command("experiment", "fill a table or figure: train and test all that it needs", _experiment_help)
    figure = command(
        "figure", "draw an experiment's figure again, from its CSV alone", "example:\n  gpicl figure scaling --scale laptop\n"
    )
    bench = command(
        "bench", "measure speed and memory, beside PyTorch if you like", _BENCH_HELP.format(names=_listed(BENCHMARKS))
    )
    example = "example:\n  gpicl datasets --data.dir ~/tensorflow_datasets\n"
    datasets = command("datasets", "list the base datasets, and how to get those that are missing", example)
    settings = command("settings", "list what a config can say", _SETTINGS_HELP)
    _add_train(train)
    _add_evaluate(evaluate)
    _add_experiment(experiment)
    _add_bench(bench)
    figure.add_argument("name", metavar="NAME", help="see gpicl experiment --help")
    figure.add_argument("--scale", default="smoke", help="which CSV of the folder (default: smoke)")
    figure.add_argument("--results-dir", type=Path, metavar="DIR", help="the experiment's folder (default: results/NAME)")
    settings.add_argument("name", metavar="NAME", nargs="?", default="", help="a section, or a class: model.lstm")
    about = "Python file of yours that registers models, learners, optimizers, datasets, sources or experiments; it is run"
    for each in (train, evaluate, experiment, figure, bench, settings):
        each.add_argument("--import", dest="imports", type=Path, action="append", default=[], metavar="FILE.py", help=about)
    about = "folder of prepared TFDS sets (default: TFDS_DATA_DIR, or ~/tensorflow_datasets; of evaluate the run's)"
    for each in (evaluate, experiment, datasets):
        each.add_argument("--data.dir", dest="data_dir", default="", metavar="DIR", help=about)
    return made


def part(text: str) -> tuple[int, int]:
    """I/N as two numbers, 1 ≤ I ≤ N.

    Example:
      >>> part("1/4")
      (1, 4)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= parts:
        raise UserError(f"--part {text}; expected I/N with 1 ≤ I ≤ N, e.g. 1/4")
    return index, parts
