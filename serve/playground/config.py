"""Options of the playground, as data."""

from dataclasses import dataclass

from blm.model.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaygroundConfig:
    """The page `/playground`, and the simulator behind it."""

    enabled: bool = True
    """Whether there is one. It costs a process, and the simulator's memory once somebody has run a task."""
    visitors: int = 4
    """Most people who watch at a time; each has an episode of their own."""
    display_px: int = 288
    """Side of the pictures for people; what the model sees is as large as its checkpoint says."""
    steps_a_frame: int = 2
    """Control steps from one of these pictures to the next."""
    url: str = ""
    """Where the simulator finds the model, for example ws://blm:8000; empty: this machine, at the server's port."""

    def __post_init__(self) -> None:
        if not (1 <= self.visitors <= 64 and 64 <= self.display_px <= 1024 and 1 <= self.steps_a_frame <= 20):
            raise UserError("give visitors from 1 to 64, display_px from 64 to 1024 and steps_a_frame from 1 to 20")
        if self.url and not self.url.startswith(("ws://", "wss://")):
            raise UserError(f"playground.url is {self.url!r}; write it as ws://host:port")
