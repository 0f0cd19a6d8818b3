"""`blm bench invariance`: what it costs that a row's chunk does not depend on the batch it is in, and whether it is so.

The same checkpoint is loaded twice, once as an evaluation loads it and once with PyTorch's own layers, and both answer
the same observations of mixed robots and instructions by turns, at several batch sizes. Then random batches are
compared bit by bit with the chunks that their rows have alone. Without a checkpoint, policies of the tiny preset's
size and random weights are made: ours, and the Diffusion Policy.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from blm.model.acting import ActingPolicy
from blm.model.diffusion_policy import DiffusionContract, write_diffusion_policy
from blm.model.embodiments import EMBODIMENTS
from blm.model.layout import Layout, layout_of
from blm.model.predictor import load_policy_for
from blm.model.types import ActionChunk, Observation
from blm.pipelines.benchmarks.serve_checkpoint import make_checkpoint, plausible_statistics
from blm.pipelines.config import load_config

SIZES = (1, 2, 5, 10, 20, 32)
"""Observations a batch."""
ROWS = 40
"""Different observations, of which batches are drawn."""
BATCHES = 12
"""Random batches whose bits are compared, of 1 to ROWS rows."""
SIDES = {"invariant": True, "plain": False}
TEXTS = ("push the cube", "pick up the red cube", "pull")


def bench_invariance(seconds: float, policy: Path | None) -> dict[str, Any]:
    """Runs it, `seconds` a policy and batch size; returns the object that is printed last. policy: a checkpoint."""
    results, differing = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folders = {"checkpoint": policy} if policy is not None else _made(Path(folder))
        for name, checkpoint in folders.items():
            sides = {side: load_policy_for(checkpoint, invariant=how) for side, how in SIDES.items()}
            seen = observations(sides["invariant"])
            results[name] = _rates(name, sides, seen, seconds)
            differing[name] = {side: _differing(acting, seen) for side, acting in sides.items()}
            for side, found in differing[name].items():
                print(f"{name}, {side}: {found['rows']} of {found['of']} rows differ, by {found['most']:.1e} at most")
    ours = next(iter(results.values()))["10"]
    return {
        "bench": "invariance",
        "method": f"CPU, {torch.get_num_threads()} threads; the same observations of mixed robots by turns, median of"
        " the calls; bits of random batches beside those of each row alone",
        "ratio": round(ours["invariant_rows_per_s"] / ours["plain_rows_per_s"], 3),
        "differing": differing,
        "results": results,
    }


def _rates(
    name: str, sides: dict[str, ActingPolicy[Any]], seen: Sequence[Observation], seconds: float
) -> dict[str, dict[str, float]]:
    """Observations a second of both sides, by batch size."""
    print(f"{name:<20}{'rows':>6}" + "".join(f"{side + ' rows/s':>20}" for side in sides))
    table = {}
    for size in SIZES:
        spent: dict[str, list[float]] = {side: [] for side in sides}
        for acting in sides.values():
            acting.infer_batch(seen[:size], range(size))  # kernels for these sizes are made at their first use
        end = time.perf_counter() + seconds
        while not spent["plain"] or time.perf_counter() < end:
            for side, acting in sides.items():
                began = time.perf_counter()
                acting.infer_batch(seen[:size], range(size))
                spent[side].append(time.perf_counter() - began)
        row = {f"{side}_rows_per_s": round(size / median(times), 2) for side, times in spent.items()}
        table[str(size)] = row
        print(f"{'':<20}{size:>6}" + "".join(f"{rate:>20.1f}" for rate in row.values()), flush=True)
    return table


def _differing(acting: ActingPolicy[Any], seen: Sequence[Observation]) -> dict[str, float]:
    """Rows of random batches whose chunks have other bits than alone, and by how much they are off at most, in the
    units of actions."""
    alone = [acting.infer_batch([one], [row])[0].actions for row, one in enumerate(seen)]
    rng = np.random.default_rng(0)
    rows, total, most = 0, 0, 0.0
    for _ in range(BATCHES):
        drawn = rng.permutation(len(seen))[: rng.integers(1, len(seen) + 1)]
        chunks: list[ActionChunk] = acting.infer_batch([seen[i] for i in drawn], [int(i) for i in drawn])
        for place, chunk in zip(drawn, chunks, strict=True):
            total += 1
            rows += not np.array_equal(chunk.actions, alone[place])
            most = max(most, float(np.abs(chunk.actions - alone[place]).max()))
    return {"rows": rows, "of": total, "most": most}


def observations(acting: ActingPolicy[Any]) -> list[Observation]:
    contract, rng = acting.contract, np.random.default_rng(0)
    side = contract.image_px
    found = []
    for row in range(ROWS):
        layout: Layout = contract.layouts[row % len(contract.layouts)]
        found.append(
            Observation(
                images={name: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for name in contract.cameras},
                state=rng.uniform(0, 1, layout.state_dim).astype(np.float32),
                instruction=TEXTS[row % len(TEXTS)],
                embodiment=layout.name,
            )
        )
    return found


# -------------------------------------------------------------------------------------------------- policies of no use


def _made(folder: Path) -> dict[str, Path]:
    """Checkpoints of the tiny preset's size with random weights."""
    config, layouts = load_config("tiny"), tuple(layout_of(robot) for robot in EMBODIMENTS)
    baseline = DiffusionContract(
        policy=config.baseline.policy,
        vocabulary=("cube", "pick", "pull", "push"),
        layouts=layouts,
        cameras=config.world.cameras,
        image_px=config.world.image_px,
        statistics={layout.name: plausible_statistics(layout) for layout in layouts},
        provenance={"made_by": "blm bench invariance"},
    )
    write_diffusion_policy(folder / "baseline", baseline, baseline.build().state_dict())
    return {"ours": make_checkpoint(folder, "tiny", "cpu"), "diffusion_policy": folder / "baseline"}
