"""`gpicl`: parsing only. Every mistake of the caller's is one line on stderr and exit code 2."""

import argparse
import math
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from gpicl_jax import __version__
from gpicl_jax.config import absolute_name, load_config, packaged_configs
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged

EXPERIMENTS = ("scaling", "transition", "learning-curves", "plateau", "state-size", "features", "few-shot", "omniglot-maml")
BENCHMARKS = ("tasks", "step", "population", "maml", "study", "inference")
_START = time.monotonic()

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
  comparison        every learner under one protocol
  tasks             what a task is, drawn
  scaling           model size × number of tasks, seen and unseen tasks
  transition        accuracy gained within an episode against the number of tasks
  learning-curves   accuracy at each position, trained on one dataset, tested on another
  plateau           steps to leave the loss plateau: the paper's remedies, and the architecture's
  state-size        accuracy on unseen tasks against state size and number of parameters
  features          learning in the feature space of a frozen network
  few-shot          N-way K-shot problems on Omniglot: MAML and its kin, and learning in context
  omniglot-maml     a public study of MAML on Omniglot, and what held it back

examples:
  gpicl experiment scaling --scale smoke
  gpicl experiment transition --scale laptop --part 1/2     (and 2/2 in another process: they share the work)
  gpicl experiment comparison --scale laptop --learners transformer sgd --seeds 1

What is done is not done again: run the same command again to go on.
"""
_FIGURE_HELP = """\
example:
  gpicl figure scaling --scale laptop
"""
_BENCH_HELP = """\
examples:
  gpicl bench step --pytorch
  gpicl bench tasks --pytorch-repo ~/gpicl --json tasks.json
  gpicl bench tasks --tasks.tasks_per_step=8 --results-dir results/benchmarks

Images are random; sizes may follow as --section.key=value; what a benchmark does not follow is refused.
Both sides use all processors that this process may use: taskset -c 0,1 gpicl bench … gives them two.
"""
_DATASETS_HELP = """\
example:
  gpicl datasets --data.dir ~/tensorflow_datasets
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see '{self.prog} --help'")


def _add_train_arguments(train: argparse.ArgumentParser) -> None:
    train.add_argument("config", metavar="CONFIG")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="the run's folder (default: runs/CONFIG-DATE-TIME)")
    train.add_argument("--resume", action="store_true", help="continue the run in --run-dir, bit for bit")
    train.add_argument("--parallel", choices=("pmap", "jit"), default="pmap", help="how several devices share a step")
    train.add_argument("--profile-steps", metavar="A:B", help="trace the chunks of steps A to B into the run's profile/")
    train.add_argument("--compile-cache", type=Path, metavar="DIR", help="keep compiled programs in DIR for later runs")
    train.add_argument(
        "--distributed",
        choices=("off", "auto", "slurm", "manual"),
        default="off",
        help="how several processes find each other: auto (TPU pods and other clusters), slurm (under srun), manual",
    )
    train.add_argument("--coordinator", metavar="HOST:PORT", help="manual: where process 0 listens")
    train.add_argument("--num-processes", type=int, metavar="N", help="manual: how many there are")
    train.add_argument("--process-id", type=int, metavar="I", help="manual: which this one is, 0 to N − 1")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpicl",
        description="Meta-train a network that learns within its context, and test it on tasks it has never seen.",
        epilog="example:\n  gpicl train digits\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpicl_jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    train = command("train", "meta-train a learner", _TRAIN_HELP.format(names=", ".join(packaged_configs("*"))))
    _add_train_arguments(train)
    evaluate = command("evaluate", "meta-test a run again", _EVALUATE_HELP)
    evaluate.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    evaluate.add_argument("--episodes", type=int, metavar="N", help="episodes of each kind of task (default: the run's)")
    evaluate.add_argument("--checkpoint", choices=("latest", "best"), default="latest", help="best: on validation tasks")
    evaluate.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="to test on (default: the run's own)")
    experiment = command("experiment", "fill a table or figure: train and test all that it needs", _EXPERIMENT_HELP)
    names = ("comparison", "tasks", *EXPERIMENTS)
    experiment.add_argument("name", metavar="NAME", choices=names, help=", ".join(names))
    experiment.add_argument("--scale", default="smoke", help="smoke (minutes), laptop (hours), paper (a GPU); default: smoke")
    experiment.add_argument("--seeds", type=int, metavar="N", help="meta-training seeds (default: the scale's)")
    experiment.add_argument("--part", default="1/1", metavar="I/N", help="only the I-th of every N units of work")
    experiment.add_argument("--runs-dir", type=Path, metavar="DIR", help="for the runs (default: runs/NAME)")
    experiment.add_argument("--results-dir", type=Path, metavar="DIR", help="for table and figure (default: results/NAME)")
    experiment.add_argument("--learners", nargs="+", default=[], metavar="NAME", help="comparison: rows (default: all)")
    experiment.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="comparison: to test on; features: all to test on, the first to train on",
    )
    experiment.add_argument("--seconds", type=float, metavar="N", help="comparison: of meta-training for each cell")
    figure = command("figure", "draw an experiment's figure again, from its CSV alone", _FIGURE_HELP)
    figure.add_argument("name", metavar="NAME", choices=EXPERIMENTS, help=", ".join(EXPERIMENTS))
    figure.add_argument("--scale", default="smoke", help="which CSV of the folder (default: smoke)")
    figure.add_argument("--results-dir", type=Path, metavar="DIR", help="the experiment's folder (default: results/NAME)")
    bench = command("bench", "measure speed and memory, beside PyTorch if you like", _BENCH_HELP)
    bench.add_argument("name", metavar="NAME", choices=BENCHMARKS, help=", ".join(BENCHMARKS))
    bench.add_argument("--pytorch", action="store_true", help="measure our plain PyTorch version too")
    bench.add_argument("--pytorch-repo", type=Path, metavar="PATH", help="clone of the public project: measure its tasks too")
    bench.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds that count (default: 7)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all that was found")
    bench.add_argument("--results-dir", type=Path, metavar="DIR", help="bring NAME.csv and benchmarks.png there up to date")
    datasets = command("datasets", "list the base datasets, and how to get those that are missing", _DATASETS_HELP)
    for each in (evaluate, experiment, datasets):
        each.add_argument(
            "--data.dir",
            dest="data_dir",
            default="",
            metavar="DIR",
            help="folder of prepared TFDS sets (default: the run's, TFDS_DATA_DIR, or ~/tensorflow_datasets)",
        )
    return parser


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= parts:
        raise UserError(f"--part {text}; expected I/N with 1 ≤ I ≤ N, e.g. 1/4")
    return index, parts


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options, rest = _parser().parse_known_args(arguments)
        if rest and options.command not in ("train", "bench"):
            raise UserError(f"unknown argument {rest[0]!r}; see 'gpicl {options.command} --help'")
        if options.command == "train":
            return _train(options, tuple(rest), arguments)
        if options.command == "evaluate":
            return _evaluate(options)
        if options.command == "experiment":
            return _experiment(options, arguments)
        if options.command == "figure":
            return _figure(options)
        if options.command == "bench":
            return _bench(options, tuple(rest), arguments)
        return _datasets(options)
    except UserError as error:
        print(f"gpicl: error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"gpicl: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gpicl: interrupted", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace, overrides: tuple[str, ...], arguments: list[str]) -> int:
    from gpicl_jax.processes import join
    from gpicl_jax.training.parallel import keep_compiled
    from gpicl_jax.training.profile import profile_range
    from gpicl_jax.training.run import train_run

    config = load_config(options.config, overrides)
    if options.resume and options.run_dir is None:
        raise UserError("--resume needs --run-dir DIR, the folder of the run to continue")
    if options.distributed != "off" and options.run_dir is None:
        raise UserError(f"--distributed={options.distributed} needs --run-dir DIR, the same for all processes")
    profiled = profile_range(options.profile_steps, config.train.steps) if options.profile_steps is not None else range(0)
    if options.compile_cache:
        keep_compiled(options.compile_cache)
    join(
        options.distributed,
        coordinator=options.coordinator,
        num_processes=options.num_processes,
        process_id=options.process_id,
    )
    run_dir = options.run_dir or Path("runs") / f"{Path(options.config).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    return train_run(
        config,
        run_dir,
        resume=options.resume,
        parallel=options.parallel,
        command=["gpicl", *arguments],
        started=_START,
        profiled=profiled,
    )


def _evaluate(options: argparse.Namespace) -> int:
    from gpicl_jax.training.run import evaluate_run

    return evaluate_run(
        options.run_dir,
        episodes=options.episodes,
        checkpoint=options.checkpoint,
        datasets=tuple(options.datasets),
        data_dir=options.data_dir,
    )


def _experiment(options: argparse.Namespace, arguments: list[str]) -> int:
    from gpicl_jax.training.signals import Interrupted

    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}; expected 1 or more")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds {options.seconds:g}; expected more than 0")
    folder = options.name.replace("-", "_")
    asked = {
        "scale": options.scale,
        "seeds": options.seeds,
        "part": _part(options.part),
        "data_dir": options.data_dir,
        "runs_dir": options.runs_dir or Path("runs") / folder,
        "results_dir": options.results_dir or Path("results") / folder,
        "command": ("gpicl", *arguments),
    }
    try:
        return (_comparison if options.name == "comparison" else _grid)(options, asked)
    except Interrupted as interrupted:
        print(f"{interrupted}; run the same command again to go on", flush=True)
        return interrupted.exit_code


def _comparison(options: argparse.Namespace, asked: dict[str, Any]) -> int:
    from gpicl_jax.experiments.comparison import Comparison, run_comparison

    datasets = tuple(absolute_name(name) for name in options.datasets)
    return run_comparison(Comparison(learners=tuple(options.learners), datasets=datasets, seconds=options.seconds, **asked))


def _grid(options: argparse.Namespace, asked: dict[str, Any]) -> int:
    for option, value in (("learners", options.learners), ("seconds", options.seconds)):
        if value:
            raise UserError(f"--{option} is of experiment comparison alone; leave it out for {options.name}")
    from gpicl_jax.experiments import find
    from gpicl_jax.experiments.run import Asked, run_experiment
    from gpicl_jax.experiments.tasks import run_tasks
    from gpicl_jax.training.population import one_device_a_core

    wanted = Asked(**asked, datasets=tuple(map(absolute_name, options.datasets)))
    if options.name == "tasks":
        return run_tasks(wanted)
    one_device_a_core()
    return run_experiment(find(options.name), wanted)


def _figure(options: argparse.Namespace) -> int:
    from gpicl_jax.experiments import find
    from gpicl_jax.experiments.run import redraw

    experiment = find(options.name)
    print(redraw(experiment, options.scale, options.results_dir or Path("results") / experiment.folder))
    return 0


def _bench(options: argparse.Namespace, overrides: tuple[str, ...], arguments: list[str]) -> int:
    from gpicl_jax.bench.asked import Asked
    from gpicl_jax.bench.run import run_bench
    from gpicl_jax.training.population import one_device_a_core

    if options.name == "population":
        one_device_a_core()
    return run_bench(
        options.name,
        overrides,
        Asked(options.pytorch, options.pytorch_repo, options.repeats),
        ["gpicl", *arguments],
        json_file=options.json,
        results=options.results_dir,
    )


def _datasets(options: argparse.Namespace) -> int:
    from gpicl_jax.data import available

    for name, about in available(options.data_dir).items():
        print(f"{name:<16} {about}")
    print("Other TFDS image sets go by their TFDS names; your own data as ./file.npz (images, labels) or ./folder.")
    return 0
