"""`gpicl`: from arguments to calls. Every user error is one line on stderr and exit code 2."""

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gpicl_jax.arguments import parser, part
from gpicl_jax.config import kept_settings, load_config
from gpicl_jax.registry import import_file
from gpicl_jax.sections import absolute_name, is_path
from gpicl_jax.settings import UserError
from gpicl_jax.training.divergence import Diverged

_START = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:  # it is closed in some daemons
                sys.stdout.flush()
    except UserError as error:
        print(f"gpicl: error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"gpicl: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gpicl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    options, rest = parser().parse_known_args(arguments)
    for path in getattr(options, "imports", ()):
        import_file(path)
    if rest and options.command not in ("train", "bench", "compile"):
        raise UserError(f"unknown argument {rest[0]!r}; see 'gpicl {options.command} --help'")
    match options.command:
        case "train":
            return _train(options, tuple(rest), ["gpicl", *arguments])
        case "experiment":
            return _experiment(options, ("gpicl", *arguments))
        case "bench" | "compile" | "doctor":
            return _measure(options, tuple(rest), ["gpicl", *arguments])
        case "evaluate":
            from gpicl_jax.training.run import evaluate_run

            evaluate_run(options.run_dir, options.episodes, options.checkpoint, tuple(options.datasets), options.data_dir)
        case "export":
            from gpicl_jax.training.export import export_run

            print(export_run(options.run_dir, options.file, options.checkpoint, options.member))
        case "figure":
            from gpicl_jax.experiments.engine.base import make_experiment
            from gpicl_jax.experiments.engine.files import redraw

            experiment = make_experiment(options.name, options.scale)
            print(redraw(experiment, options.results_dir or Path("results") / experiment.folder))
        case "settings":
            from gpicl_jax.listing import settings_page

            print(settings_page(options.name))
        case "datasets":
            from gpicl_jax.data.datasets import available

            for name, about in available(options.data_dir).items():
                print(f"{name:<16} {about}")
            print("Other TFDS image sets go by their TFDS names; your own data as ./file.npz (images, labels) or ./folder.")
    return 0


def _train(options: argparse.Namespace, overrides: tuple[str, ...], command: list[str]) -> int:
    from gpicl_jax.data.own import read_own

    config = load_config(options.config, overrides)
    for name in filter(is_path, config.data.train):  # a fault in them is told before the seconds that the next imports take
        read_own(name)
    if _is_dry(options):
        from gpicl_jax.bench.dry_run import dry_train

        if options.resume:
            raise UserError("--dry-run counts a whole run; leave out --resume")
        return dry_train(options.config, config, options.target, options.parallel)
    from gpicl_jax.processes import join
    from gpicl_jax.training.parallel import keep_compiled
    from gpicl_jax.training.profile import profile_range
    from gpicl_jax.training.run import train_run

    if options.resume and options.run_dir is None:
        raise UserError("--resume needs --run-dir DIR, the folder of the run to continue")
    if options.distributed != "off" and options.run_dir is None:
        raise UserError(f"--distributed={options.distributed} needs --run-dir DIR, the same for all processes")
    profiled = profile_range(options.profile_steps, config.train.steps) if options.profile_steps is not None else range(0)
    if options.compile_cache:
        keep_compiled(options.compile_cache)
    join(options.distributed, options.coordinator, options.num_processes, options.process_id)
    for kept in kept_settings(options.config, overrides):
        print(kept, flush=True)
    return train_run(
        config,
        options.run_dir or Path("runs") / f"{Path(options.config).stem}-{datetime.now():%Y%m%d-%H%M%S}",
        resume=options.resume,
        parallel=options.parallel,
        command=command,
        started=_START,
        profiled=profiled,
    )


def _measure(options: argparse.Namespace, overrides: tuple[str, ...], command: list[str]) -> int:
    match options.command:
        case "bench":
            from gpicl_jax.bench.program import Asked
            from gpicl_jax.bench.run import run_bench

            asked = Asked(options.pytorch, options.pytorch_repo, options.repeats)
            files = {"json_file": options.json, "results": options.results_dir}
            return run_bench(options.name, overrides, asked, command, **files)
        case "compile":
            from gpicl_jax.bench.compile_command import run_compile

            about = {"parallel": options.parallel, "largest": options.largest}
            files = {"json_file": options.json, "results": options.results_dir}
            return run_compile(options.configs, overrides, options.targets, **about, **files)
        case _:
            from gpicl_jax.bench.doctor import run_doctor

            return run_doctor(options.json)


def _is_dry(options: argparse.Namespace) -> bool:
    if options.target and not options.dry_run:
        raise UserError(f"--for {options.target} needs --dry-run; leave it out to train on the devices that are there")
    return options.dry_run


def _experiment(options: argparse.Namespace, command: tuple[str, ...]) -> int:
    from gpicl_jax.experiments.engine.base import make_experiment
    from gpicl_jax.experiments.engine.run import Asked, run_experiment
    from gpicl_jax.training.population import one_device_a_core
    from gpicl_jax.training.signals import Interrupted

    if options.seeds is not None and options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}; expected 1 or more")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds {options.seconds:g}; expected more than 0")
    experiment = make_experiment(options.name, options.scale)
    experiment = replace(experiment, seeds=options.seeds or experiment.seeds, data_dir=options.data_dir)
    learners, datasets = tuple(options.learners), tuple(map(absolute_name, options.datasets))
    chosen = {"learners": learners, "permute": tuple(options.permute), "datasets": datasets, "seconds": options.seconds}
    experiment = experiment.with_options(**chosen)
    asked = Asked(
        runs_dir=options.runs_dir or Path("runs") / experiment.folder,
        results_dir=options.results_dir or Path("results") / experiment.folder,
        part=part(options.part),
        command=command,
    )
    if _is_dry(options):
        from gpicl_jax.bench.dry_run import dry_experiment

        return dry_experiment(experiment, asked, options.target)
    one_device_a_core()
    try:
        return run_experiment(experiment, asked)
    except Interrupted as interrupted:
        print(f"{interrupted}; run the same command again to go on", flush=True)
        return interrupted.exit_code
