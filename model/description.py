"""What a served policy says of itself at the handshake: cameras, pictures, robots, chunks, and which model it is.

A client compares it with what it is about to send, so that what does not fit together is said before an episode runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blm.model.errors import UserError
from blm.model.layout import Layout, find_layout, layout_from_json, layout_to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyDescription:
    """A policy as its clients must know it."""

    name: str
    """Kind of policy: `blm`, `diffusion_policy`, `random`."""
    cameras: tuple[str, ...]
    """Pictures an observation needs; empty for a policy that does not look."""
    image_px: int
    """Side of the square pictures; 0 without cameras."""
    layouts: tuple[Layout, ...]
    """Robots it acts for: names, units and bounds of their numbers, and their control rate."""
    chunk: int
    """Actions in an answer."""
    execute_steps: int
    """Actions of a chunk that are handed out one by one to a client that takes single actions."""
    identity: str = ""
    """Hash of the checkpoint's contract, weights included; empty for what has none."""
    normalisation: str = ""
    """Hash of the statistics that states and actions are normalised with; empty for what has none."""

    def __post_init__(self) -> None:
        if not 1 <= self.execute_steps <= self.chunk:
            raise UserError(f"execute_steps is {self.execute_steps}; this policy predicts {self.chunk}: give 1 to that")
        if not self.layouts:
            raise UserError("a policy without robots cannot be served")

    @property
    def robots(self) -> tuple[str, ...]:
        """Names of its robots."""
        return tuple(layout.name for layout in self.layouts)

    def layout(self, robot: str) -> Layout:
        """A robot's numbers. UserError for a robot it does not act for."""
        return find_layout(self.layouts, robot)


def describe_checkpoint(contract: Mapping[str, Any], execute_steps: int) -> PolicyDescription:
    """The description of a checkpoint of any kind; contract: what `checkpoint_files.read_folder` returns.

    UserError if it lacks something, or if chunks are shorter than `execute_steps`.
    """
    try:
        return PolicyDescription(
            name=contract["kind"],
            cameras=tuple(contract["cameras"]),
            image_px=contract["image_px"],
            layouts=tuple(layout_from_json(layout) for layout in contract["layouts"]),
            chunk=contract["policy"]["chunk"],
            execute_steps=execute_steps,
            identity=contract["contract_hash"],
            normalisation=contract.get("statistics_hash", ""),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"the checkpoint's blm.json is damaged ({error}); copy the checkpoint again") from error


def description_to_wire(description: PolicyDescription) -> dict[str, Any]:
    """Plain data, without arrays: openpi's chunk broker slices every array of what it is given."""
    return {
        "name": description.name,
        "cameras": list(description.cameras),
        "image_px": description.image_px,
        "robots": [layout_to_json(layout) for layout in description.layouts],
        "chunk": description.chunk,
        "execute_steps": description.execute_steps,
        "identity": description.identity,
        "normalisation": description.normalisation,
    }


def description_from_wire(data: Any) -> PolicyDescription:
    """The inverse of `description_to_wire`. UserError for anything else."""
    try:
        return PolicyDescription(
            name=str(data["name"]),
            cameras=tuple(str(camera) for camera in data["cameras"]),
            image_px=int(data["image_px"]),
            layouts=tuple(layout_from_json(layout) for layout in data["robots"]),
            chunk=int(data["chunk"]),
            execute_steps=int(data["execute_steps"]),
            identity=str(data["identity"]),
            normalisation=str(data.get("normalisation", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the server's description of its policy cannot be read ({error})") from error
