"""`gpicl export`: a run, or a member of an experiment's population, becomes one file."""

from pathlib import Path
from typing import Any

import jax

from gpicl_jax.config import config_from_dict
from gpicl_jax.runs.checkpoint import Checkpoints
from gpicl_jax.runs.export import write_export
from gpicl_jax.runs.folder import CONFIG, RunFolder
from gpicl_jax.sections import Config
from gpicl_jax.settings import UserError
from gpicl_jax.training.meta_test import load_params
from gpicl_jax.training.population import hypers_of
from gpicl_jax.training.program import make_program

_MEMBERS = "members.json"


def export_run(run_dir: Path, file: Path, checkpoint: str, member: int | None) -> str:
    """Writes a run, or a member of an experiment's population, to one file. Returns a line that says what is in it.

    Args:
      run_dir: folder of a run, or of a population: `runs/EXPERIMENT/SCALE/NAME`.
      file: the .npz to write.
      checkpoint: `latest` or `best` (on validation tasks), of a run.
      member: the member's number from 0, of a population.

    Raises:
      UserError: no run or member, no checkpoint, or a file that cannot be written.
    """
    folder = RunFolder(run_dir)
    members = folder.read_json(_MEMBERS)
    if member is not None:
        config, params, step, about = _member(folder, members, member)
        commands = members["commands"]
    elif members and not (run_dir / CONFIG).is_file():
        raise UserError(f"{run_dir} holds members of an experiment; give --member I, from 0 to {len(members['members']) - 1}")
    else:
        config, params, step = run_params(run_dir, checkpoint)
        about = {"summary": folder.read_json("summary.json")}
        commands = (folder.read_json("run.json") or {"commands": []})["commands"]
    by = {name: commands[-1][name] for name in ("commit", "packages")} if commands else {}
    size = write_export(file, params, config, {"step": step, "checkpoint": checkpoint, **about, **by})
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{file}: {config.model.name}, {numbers:,} parameters of step {step}, {size / 1e3:,.0f} kB"


def run_params(run_dir: Path, checkpoint: str) -> tuple[Config, Any, int]:
    """Returns config, parameters and step of a run's `latest` or `best` checkpoint."""
    folder = RunFolder.open(run_dir)
    config = folder.config()
    return config, *load_params(folder, config, checkpoint)


def _member(folder: RunFolder, members: Any, index: int) -> tuple[Config, Any, int, dict[str, Any]]:
    """Returns config, parameters, step, and the place in the experiment's grid."""
    if not members:
        raise UserError(f"{folder.path} holds no members of an experiment; leave out --member")
    records = members["members"]
    if not 0 <= index < len(records):
        raise UserError(f"--member {index}: {folder.path} has {len(records)}; give 0 to {len(records) - 1}")
    if any("config" not in record for record in records):
        raise UserError(f"{folder.path} is of an older version, without its settings; run its experiment's command again")
    configs = [_from_flat(record["config"]) for record in records]
    like = jax.eval_shape(jax.vmap(make_program(configs[0]).init), hypers_of(configs))
    if not folder.checkpoints.is_dir():
        raise UserError(f"no checkpoint in {folder.path}; run its experiment's command again")
    with Checkpoints(folder.checkpoints) as checkpoints:
        step = checkpoints.latest_step
        params_M = checkpoints.load(step, like.stored)["params"]
    place = {name: value for name, value in records[index].items() if name != "config"}
    return configs[index], jax.tree.map(lambda leaf_M: leaf_M[index], params_M), step, {"member": place}


def _from_flat(settings: dict[str, Any]) -> Config:
    """Returns the config of settings by their full names."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        nested.setdefault(section, {})[key] = value
    return config_from_dict(nested)
