"""What a policy to evaluate is named by: a checkpoint folder, the address of a server, or `random`.

    runs/tiny/stage2-1a2b3c4d/model        a checkpoint of any kind; it is loaded here
    blm://host:8765                        our own server of one policy (`blm policy-server`)
    openpi://host:8000                     openpi's, or any that speaks its protocol
    vla-eval://host:8000                   a model server of vla-eval
    random                                 random actions

A server of other people's needs a mapping: a YAML file that says how our observations become its own, and its actions
ours; see docs/remote.md.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blm.actors.sim.policies import Inference, RandomPolicy
from blm.actors.sim.world import Cell, WorldConfig
from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.workspace import ResourceConfig

if TYPE_CHECKING:
    from blm.actors.sim.policies import Policy
    from blm.pipelines.evaluate import EvaluateConfig

RANDOM = RandomPolicy.name
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherPolicy:
    """A policy that is not of this run, evaluated beside it."""

    name: str
    """Its name in results and tables."""
    policy: str
    """A checkpoint folder, or the address of a server: blm://host:port, openpi://..., vla-eval://..."""
    mapping: Path | None = None
    """How our observations and actions become a server's: a YAML file."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"a policy is named {self.name!r}; give letters, digits, '.', '_' and '-'")
        if not self.policy:
            raise UserError(f"policy {self.name!r} is named by nothing; give a checkpoint folder or an address")
        if self.mapping is not None and not is_address(self.policy):
            raise UserError(f"policy {self.name!r} is no server and needs no mapping; leave {self.mapping} out")


def is_address(reference: str) -> bool:
    """Whether a reference is the address of a server."""
    return ADDRESS.match(reference) is not None


def is_folder(reference: str) -> bool:
    """Whether a reference is a checkpoint folder."""
    return reference != RANDOM and not is_address(reference)


def check(policy: OtherPolicy, config: "EvaluateConfig", world: WorldConfig, cells: Sequence[Cell]) -> None:
    """UserError unless the policy is there, knows the robots of `cells`, and sees through the cameras of the world."""
    if is_address(policy.policy):
        remote: Any = make_in_worker(policy, config)()
        robots = sorted({cell.robot for cell in cells})
        remote.check_world(
            cameras=world.cameras, image_px=world.image_px, robots=robots, execute_steps=config.execution.execute_steps
        )
    elif is_folder(policy.policy):
        check_checkpoint(Path(policy.policy), config, world, cells)


def check_checkpoint(folder: Path, config: "EvaluateConfig", world: WorldConfig, cells: Sequence[Cell]) -> None:
    """UserError unless the model in `folder` knows the robots of `cells` and sees through the cameras of the world."""
    from blm.model.checkpoint_files import read_folder

    contract: dict[str, Any] = read_folder(folder)
    cameras, known = contract["cameras"], contract["embodiments"]
    if unknown := sorted({cell.robot for cell in cells} - set(known)):
        raise UserError(f"{folder} was not trained for {unknown[0]}; it knows {', '.join(known)}")
    if missing := [camera for camera in cameras if camera not in world.cameras]:
        raise UserError(f"{folder} needs camera {missing[0]!r}; set world.cameras={list(cameras)}")
    if contract["image_px"] != world.image_px:
        raise UserError(
            f"{folder} needs pictures of {contract['image_px']} px; set world.image_px={contract['image_px']}"
        )
    chunk, needed = contract["policy"]["chunk"], config.execution.execute_steps
    if needed > chunk:
        raise UserError(f"evaluate.execution.execute_steps is {needed}; {folder} predicts chunks of {chunk}")


def make_in_worker(policy: OtherPolicy, config: "EvaluateConfig") -> "Callable[[], Policy]":
    """What makes a policy that needs no process of its own: random actions, or the client of a server, which raises
    UserError if nobody answers there, or a mapping is missing or bad.
    """
    if policy.policy == RANDOM:
        return functools.partial(RandomPolicy, config.random_scale_rad)
    from blm.actors.remote.references import open_remote

    connect: Callable[..., Any] = open_remote
    limit_s = config.policy_limit_s
    return functools.partial(connect, policy.policy, policy.mapping, name=policy.name, deadline_s=limit_s)


def load_checkpoint(folder: Path, config: "EvaluateConfig", resources: ResourceConfig) -> Inference:
    """A model in the process that is to run it. UserError if its files are missing or damaged."""
    import torch

    from blm.model.predictor import load_policy_for

    policy: Inference = load_policy_for(
        depot.here(folder),
        device=resources.device,
        dtype=getattr(torch, resources.dtype),
        euler_steps=config.euler_steps,
        guidance=config.guidance,
    )
    return policy
