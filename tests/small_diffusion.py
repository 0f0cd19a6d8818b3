"""A Diffusion Policy small enough for tests, and batches of which the right actions can be seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from blm.model.diffusion_network import DiffusionBatch, DiffusionNetwork
from blm.model.diffusion_options import DiffusionPolicyConfig
from blm.model.diffusion_policy import DiffusionContract, write_diffusion_policy
from blm.model.layout import layout_of
from blm.model.normalize import EmbodimentStatistics, Quantiles
from blm.model.policy_batch import PolicyGroup

SMALL = DiffusionPolicyConfig(
    stem_width=8,
    encoder_widths=(16,),
    keypoints=4,
    unet_widths=(16, 32),
    unet_kernel=3,
    condition=32,
    word_width=8,
    train_timesteps=20,
    sample_timesteps=5,
    shift_px=0,
    word_dropout=0.0,
)
SIDE = 32
DIMS = {"panda": 8, "xarm6": 7}
TASKS = ("push the cube", "pull the cube")


def small_contract(
    robots: Sequence[str] = ("panda",),
    *,
    config: DiffusionPolicyConfig = SMALL,
    cameras: tuple[str, ...] = ("front",),
    image_px: int = SIDE,
) -> DiffusionContract:
    """For these robots, with plausible normalisation."""
    return DiffusionContract(
        policy=config,
        layouts=tuple(layout_of(robot) for robot in robots),
        cameras=cameras,
        image_px=image_px,
        vocabulary=("cube", "pull", "push", "the"),
        statistics={
            robot: EmbodimentStatistics(
                state=Quantiles(low=(-3.0,) * (DIMS[robot] - 1) + (0.0,), high=(3.0,) * (DIMS[robot] - 1) + (1.0,)),
                action=Quantiles(low=(-0.1,) * (DIMS[robot] - 1) + (0.0,), high=(0.1,) * (DIMS[robot] - 1) + (1.0,)),
            )
            for robot in robots
        },
        provenance={"made_by": "tests"},
    )


def small_network(contract: DiffusionContract, seed: int = 0) -> DiffusionNetwork:
    """Its network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return contract.build()


def write_small_diffusion_policy(folder: Path, **options: object) -> Path:
    """A checkpoint for the Panda with random weights."""
    contract = small_contract(**options)  # type: ignore[arg-type]
    write_diffusion_policy(folder, contract, small_network(contract).state_dict())
    return folder


def square_pictures(places: np.ndarray) -> np.ndarray:
    """Grey pictures uint8 [B, 1, SIDE, SIDE, 3] with a bright square at places [B] from -1 (left) to 1 (right)."""
    pictures = np.full((len(places), 1, SIDE, SIDE, 3), 60, dtype=np.uint8)
    for picture, place in zip(pictures, places, strict=True):
        x = round((place + 1) / 2 * (SIDE - 8))
        picture[0, 12:20, x : x + 8] = (250, 220, 40)
    return pictures


def small_batch(rows: Sequence[tuple[str, float]], seed: int = 0) -> DiffusionBatch:
    """Rows of (robot, place of the square), rows of one robot together; half the place is the action to be
    taken, and 0.4 more if the task is to push or 0.4 less if it is to pull, which are told by turns.
    """
    rng = np.random.default_rng(seed)
    states = {
        robot: torch.from_numpy(rng.uniform(-1, 1, (len(rows), dims)).astype(np.float32))
        for robot, dims in DIMS.items()
    }
    groups, tasks = [], [TASKS[i % 2] for i in range(len(rows))]
    for robot in dict.fromkeys(robot for robot, _ in rows):
        mine = [i for i, (name, _) in enumerate(rows) if name == robot]
        goal = torch.tensor([rows[i][1] / 2 + (0.4 if tasks[i] == TASKS[0] else -0.4) for i in mine])
        groups.append(
            PolicyGroup(
                embodiment=robot,
                state=states[robot][mine],
                actions=goal[:, None, None].expand(len(mine), SMALL.chunk, DIMS[robot]).clone(),
                is_pad=torch.zeros(len(mine), SMALL.chunk, dtype=torch.bool),
            )
        )
    return DiffusionBatch(
        groups=groups,
        pictures=torch.from_numpy(square_pictures(np.array([place for _, place in rows]))),
        instructions=tasks,
        place=torch.arange(len(rows)),
    )
