"""Of two drivers that train the same thing, only the later one's workers may save.

When a driver is killed, Ray ends its workers, but not at once; and a worker that lost the network knows nothing of it
for minutes. Meanwhile the same command may have been given again. Each training therefore writes a token of its own
into the stage's folder, and a worker saves only as long as it finds its own token there: it looks right before a
checkpoint gets its name. What may pass between the look and the name is whole, and a step of the same training.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from blm.cluster import depot
from blm.model.errors import UserError
from blm.pipelines.workspace import OWNER, write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """Whose training it is. Goes to workers as part of what they are told."""

    folder: str
    """The stage's folder, by the driver's name."""
    token: str
    """16 hex, of this driver's training alone."""


def claim(folder: Path) -> Fence:
    """Take over the training in a stage's folder: whoever held it before may save no more."""
    fence = Fence(folder=str(folder), token=secrets.token_hex(8))
    write_text(folder / OWNER, fence.token + "\n")
    depot.keep(folder / OWNER)
    return fence


def check(fence: Fence | None) -> None:
    """UserError if somebody has claimed the training since. None: nobody has claimed anything."""
    if fence is None:
        return
    path = depot.here(Path(fence.folder) / OWNER)
    holder = path.read_text().strip() if path.exists() else "nobody"
    if holder != fence.token:
        raise UserError(
            f"another driver has taken over the training in {fence.folder} ({holder}, not {fence.token}); leave it to"
            " that one"
        )
