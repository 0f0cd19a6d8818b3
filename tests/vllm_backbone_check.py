"""Run by test_vllm_backbone.py in a process of its own, since vLLM changes the process that it computes in: a policy on
vLLM's own layers beside the same policy on layers of its own.

python tests/vllm_backbone_check.py CHECKPOINT DTYPE...    prints one line of JSON
"""

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_DO_NOT_TRACK": "1",
}

import numpy as np
import torch
from small_server import picture
from torch import Tensor

from blm.model.errors import UserError
from blm.model.lower_blocks import OwnBlocks
from blm.model.predictor import BlmPolicy
from blm.model.types import Observation
from blm.serve.config import ChatConfig
from blm.serve.engine.options import engine_options
from blm.serve.engine.vllm_worker import load
from blm.serve.web.codec import encode_picture


def observations(contract: Any, count: int) -> list[Observation]:
    """Pictures of noise over a gradient, states within their bounds, instructions of several lengths."""
    random = np.random.default_rng(0)
    texts = ("push the cube", "pick up the red cube", "wait")
    found = []
    for number in range(count):
        layout = contract.layouts[number % len(contract.layouts)]
        side = contract.image_px
        slope = np.linspace(0, 200, side)[:, None, None] + random.integers(0, 56, (side, side, 3))
        images = {camera: np.roll(slope, 7 * number, axis=1).astype(np.uint8) for camera in contract.cameras}
        state = random.uniform(0, 1, layout.state_dim).astype(np.float32)
        found.append(Observation(images=images, state=state, instruction=texts[number % 3], embodiment=layout.name))
    return found


def error(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference, relative."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def real(parts: Any) -> Tensor:
    """States of texts without their padding."""
    return torch.cat([row[:length] for row, length in zip(parts.texts, parts.lengths, strict=True)])


def median_ms(act: Callable[[], Any]) -> float:
    """Of ten calls."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        act()
        times.append(1e3 * (time.perf_counter() - began))
    return round(statistics.median(times), 2)


def said(engine: Any) -> list[int]:
    """Tokens of a greedy answer about a picture."""
    from vllm import SamplingParams

    content = [
        {"type": "image_url", "image_url": {"url": encode_picture(picture())}},
        {"type": "text", "text": "Where is the cube?"},
    ]
    sampling = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    (answer,) = engine.chat([{"role": "user", "content": content}], sampling, use_tqdm=False)
    return list(answer.outputs[0].token_ids)


def foreign(folder: Path) -> dict[str, str]:
    """What becomes of a model whose layers are not where they were."""
    strange = torch.nn.Module()
    found = {"auto": load(strange, folder, "auto", torch.device("cpu"), "float32")[1]}
    try:
        load(strange, folder, "one", torch.device("cpu"), "float32")
    except UserError as refusal:
        found["one"] = str(refusal)
    return found


def compare(folder: Path, dtype: str) -> dict[str, Any]:
    """What the two policies make of the same observations, and what vLLM says before and after."""
    from vllm import LLM

    options = engine_options(folder, ChatConfig(dtype=dtype, kv_cache_gb=0.1, max_length=512), "cpu")  # type: ignore[arg-type]
    engine = LLM(model=str(folder), **options)
    said_before = said(engine)
    worker = engine.llm_engine.model_executor.driver_worker.worker
    borrowed, sharing, why = load(worker.get_model(), folder, "auto", torch.device("cpu"), "float32")
    borrowed.warm_up()
    exact = OwnBlocks(folder, layer=borrowed.contract.layer, precision="float32")
    own = BlmPolicy.load(folder, blocks=exact)
    seen = observations(own.contract, 5)
    pictures = np.stack([np.stack([one.images[camera] for camera in own.contract.cameras]) for one in seen])
    texts = [one.instruction for one in seen]
    ours, theirs = (
        (
            one._extractor.encode_stacked(pictures, texts),
            one._extractor.parts(pictures, [(text,) for text in texts]),
            one._extractor.parts(pictures[:2], [texts[:2], texts[2:3]]),
        )
        for one in (borrowed, own)
    )
    chunks, chunks_own = (one.infer_batch(seen, range(len(seen))) for one in (borrowed, own))
    alone = [borrowed.infer_batch([one], [row])[0] for row, one in enumerate(seen)]
    return {
        "sharing": sharing,
        "why": why,
        "masks": torch.equal(ours[0].mask, theirs[0].mask),
        "rounded": error(ours[0].states, theirs[0].states),
        "pictures": error(ours[1].pictures, theirs[1].pictures),
        "texts": error(real(ours[1]), real(theirs[1])),
        "shared_pictures": error(ours[2].pictures, theirs[2].pictures),
        "shared_texts": error(real(ours[2]), real(theirs[2])),
        "chunks_rad": max(float(np.abs(a.actions - b.actions).max()) for a, b in zip(chunks, chunks_own, strict=True)),
        "chunks_std": float(np.concatenate([chunk.actions.ravel() for chunk in chunks_own]).std()),
        "batch_rad": max(float(np.abs(a.actions - b.actions).max()) for a, b in zip(chunks, alone, strict=True)),
        "said_before": said_before,
        "said_after": said(engine),
        "median_ms": {
            f"{name}, {count}": median_ms(functools.partial(policy.infer_batch, seen[:count], range(count)))
            for name, policy in (("borrowed", borrowed), ("own", own))
            for count in (1, 5)
        },
    }


if __name__ == "__main__":
    place = Path(sys.argv[1])
    results = {dtype: compare(place, dtype) for dtype in sys.argv[2:]}
    results[sys.argv[2]]["foreign"] = foreign(place)
    print(json.dumps(results))
