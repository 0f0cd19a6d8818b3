"""What every stage asks of which kind of node: the table that placement, manifests and `blm plan` read.

A node says what it is by a Ray resource of its kind's name, `OFFER` of it, and every process takes 1:

    ray start --address HEAD:6379 --resources '{"cpu-sim": 1000}'

A node may be of several kinds. The head is of none and offers no CPUs: it does no work. Plain data, no Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

Kind = Literal["cpu-sim", "gpu-train", "gpu-serve"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""cpu-sim: simulation, pictures, data. gpu-train: training, and the frozen model over the data. gpu-serve: models that
answer, in evaluations and in the server."""
OFFER = 1000
"""How much of its kind a node offers. Whole numbers: Ray Train counts workers by dividing, and fractions go wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What one process of a role needs."""

    kind: Kind
    """Of node."""
    cpus: float = 1.0
    """CPUs on such a node. Where there is none, a process asks for 1 at most, since it shares a small machine."""
    gpus: float = 0.0
    """GPUs, where models run on GPUs."""
    memory_gb: float = 2.0
    """What it takes of the node's memory. For choosing nodes: Ray is not told, lest a small machine wait for memory."""
    beside: bool = False
    """Works beside another role and must not wait for it: it asks for no CPUs where there is no node of its kind."""


_SIMULATOR = Ask(kind="cpu-sim", memory_gb=1.5)
DATA = Ask(kind="cpu-sim", memory_gb=1.5)
"""Reading, rendering, encoding and writing: whatever needs a core and no model."""
_TRAINER = Ask(kind="gpu-train", cpus=6.0, gpus=1.0, memory_gb=48.0)
_FROZEN_MODEL = Ask(kind="gpu-train", cpus=4.0, gpus=1.0, memory_gb=32.0)

ASKS: Mapping[str, Mapping[str, Ask]] = MappingProxyType(
    {
        "collect": {"simulator": _SIMULATOR},
        "render": {"simulator": _SIMULATOR},
        "corpora": {"simulator": _SIMULATOR, "data": DATA},
        "stage1": {"data": DATA, "trainer": _TRAINER},
        "intents": {"model": _FROZEN_MODEL},
        "stage2": {
            "data": DATA,
            "pictures": replace(DATA, beside=True),
            "trainer": _TRAINER,
            "simulator": replace(_SIMULATOR, beside=True),
            "policy": Ask(kind="gpu-serve", cpus=2.0, gpus=1.0, memory_gb=24.0, beside=True),
        },
        "baseline": {
            "data": DATA,
            "pictures": replace(DATA, beside=True),
            "trainer": replace(_TRAINER, memory_gb=16.0),
        },
        "evaluate": {
            "simulator": _SIMULATOR,
            "queue": Ask(kind="gpu-serve", cpus=0.0, memory_gb=0.5),
            "policy": Ask(kind="gpu-serve", cpus=2.0, gpus=1.0, memory_gb=24.0, beside=True),
            "model": Ask(kind="gpu-serve", cpus=4.0, gpus=1.0, memory_gb=32.0),
        },
        "ingest": {"data": DATA},
        "serve": {
            "model": Ask(kind="gpu-serve", cpus=4.0, gpus=1.0, memory_gb=48.0),
            "control": Ask(kind="gpu-serve", cpus=2.0, gpus=0.5, memory_gb=16.0),
        },
    }
)
"""Stage -> role -> what one process of it asks. `report` runs where the driver is. `ingest` and `serve` are commands of
their own. `serve` is what a server on GPUs should have; the server's own configuration is what counts there."""


def asked(stage: str, role: str, *, device: str = "cuda") -> Ask:
    """What one process of a role asks for, models being on `cpu` or `cuda`. KeyError for what is not in the table."""
    ask = ASKS[stage][role]
    return ask if device == "cuda" else replace(ask, gpus=0.0)
