"""Options that all commands share which roll policies out: `blm evaluate policy`, `compare`, `curve`, `maniskill`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blm.actors.sim.world import WorldConfig
from blm.model.errors import UserError
from blm.pipelines.evaluate import EvaluateConfig
from blm.pipelines.evaluation.references import is_folder
from blm.pipelines.workspace import ResourceConfig


def add_policy_arguments(
    parser: argparse.ArgumentParser, *, out: str, policy: str = "checkpoint folder, address of a server, or random"
) -> None:
    """Which one policy acts, in how many scenes, and where results go; then `add_rollout_arguments`.

    out, policy: help for where results go by default, and for what the policy may be.
    """
    parser.add_argument("policy", metavar="POLICY", help=policy)
    parser.add_argument("--episodes", type=int, default=50, metavar="N", help="scenes in each cell (default: 50)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    parser.add_argument("--mapping", type=Path, metavar="FILE", help="YAML: a server's observations and actions")
    add_rollout_arguments(parser)


def add_rollout_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a policy acts, how, and on what machine. `world_of` and `settings_of` read it."""
    where = parser.add_argument_group("the world")
    where.add_argument("--cells", nargs="+", default=[], metavar="CELL", help="robot/Task ... (default: as trained)")
    where.add_argument("--cameras", nargs="+", default=[], metavar="NAME", help="(default: the checkpoint's)")
    where.add_argument("--image-px", type=int, default=0, metavar="N", help="size of pictures (default: as trained)")
    where.add_argument("--geometry", choices=("lite", "official"), default="lite", help="of the robots (default: lite)")
    how = parser.add_argument_group("how it acts")
    how.add_argument("--execute-steps", type=int, default=0, metavar="N", help="actions of a chunk before a new look")
    how.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="an option of the stage evaluate, for example --set execution.mode=ensemble; may be given again",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--actors", default="auto", metavar="N|auto", help="simulator processes (default: auto)")
    machine.add_argument("--cpus", type=int, default=0, metavar="N", help="CPUs to use (default: all)")
    machine.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where a checkpoint runs")
    machine.add_argument("--gpus", type=int, default=1, metavar="N", help="with --device cuda: how many")


def world_of(references: Sequence[str], arguments: argparse.Namespace) -> WorldConfig:
    """The world that was asked for; where nothing was, as the checkpoints among the references were trained, and as
    servers of ours say that theirs were.

    UserError if a checkpoint cannot be read, a server of ours does not answer, or two were trained with pictures of
    different sizes.
    """
    from blm.model.checkpoint_files import read_folder

    contracts = [read_folder(Path(reference)) for reference in references if is_folder(reference)]
    seen = [(one["cameras"], one["image_px"]) for one in contracts]
    if not (arguments.cameras and arguments.image_px):
        seen += [_said_by(reference) for reference in references if reference.startswith("blm://")]
    cells = arguments.cells or _trained_in(contracts)
    cameras = arguments.cameras or list(dict.fromkeys(name for names, _ in seen for name in names))
    sizes = {arguments.image_px} if arguments.image_px else {px for _, px in seen if px}
    if len(sizes) > 1:
        raise UserError(f"these policies see pictures of {', '.join(map(str, sorted(sizes)))} px; they share no world")
    given: dict[str, Any] = {"cells": tuple(cells), "cameras": tuple(cameras), "image_px": max(sizes, default=0)}
    return WorldConfig(geometry=arguments.geometry, **{name: value for name, value in given.items() if value})


def settings_of(arguments: argparse.Namespace) -> tuple[EvaluateConfig, ResourceConfig]:
    """Options of rollouts, and what the machine may give. UserError for impossible ones."""
    from blm.pipelines.config import parse_override
    from blm.pipelines.preset_files import merge
    from blm.pipelines.schema import build

    values: dict[str, Any] = {}
    if arguments.execute_steps:
        values = {"execution": {"execute_steps": arguments.execute_steps}}
    for override in arguments.overrides:
        values = merge(values, parse_override(override))
    config: EvaluateConfig = build(EvaluateConfig, values, where="--set")
    if arguments.actors != "auto" and not arguments.actors.isdigit():
        raise UserError(f"--actors is {arguments.actors!r}; give a number, or auto")
    on_gpu = arguments.device == "cuda"
    resources = ResourceConfig(
        num_cpus=arguments.cpus or os.cpu_count() or 1,
        num_gpus=arguments.gpus if on_gpu else 0,
        device=arguments.device,
        dtype="bfloat16" if on_gpu else "float32",
        actors="auto" if arguments.actors == "auto" else int(arguments.actors),
    )
    return config, resources


def _said_by(address: str) -> tuple[Sequence[str], int]:
    """Cameras and picture size that a server of ours says its policy needs."""
    from blm.actors.remote.references import open_remote

    client = open_remote(address)
    client.close()
    description = client.description
    return (description.cameras, description.image_px) if description is not None else ((), 0)


def _trained_in(contracts: Sequence[dict[str, Any]]) -> list[str]:
    """Cells that all checkpoints say they were trained in; none if one does not say, or they share none."""
    told = [one.get("provenance", {}).get("cells") or [] for one in contracts]
    return [cell for cell in told[0] if all(cell in cells for cells in told)] if told else []
