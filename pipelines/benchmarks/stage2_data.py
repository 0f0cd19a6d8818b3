"""What `blm bench stage2` trains on: a small dataset of one robot, made up, and a backbone of random weights.

Everything after that is the pipeline's own: windows, statistics and the intent cache on disk.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blm.actors.sim.world import WorldConfig
from blm.model.backbone import build_tiny, make_processor, save_backbone
from blm.model.embodiments import get_embodiment
from blm.model.qwen_configs import qwen2_5_vl_config
from blm.model.tokenizer import train_tokenizer
from blm.model.training import resolve_precision
from blm.pipelines.config import RunConfig
from blm.pipelines.datasets.lerobot_stats import picture_histogram
from blm.pipelines.datasets.lerobot_writer import EpisodeFrames, write_lerobot
from blm.pipelines.intent.building import Build, build_cache
from blm.pipelines.intent.key import cache_key
from blm.pipelines.intent.making import Variants
from blm.pipelines.intent.writer import WriterOptions
from blm.pipelines.intent_cache import IntentCache
from blm.pipelines.render_frames import dataset_features

ROBOT = "panda"
EPISODES, FRAMES = 24, 30
TASKS = ("push the cube to the target", "pick up the red cube")
GPU_BYTES_PER_BLOCK = 0.6e9
"""Of a 7B's weights in bfloat16, generously."""


def write_demonstrations(root: Path, world: WorldConfig, config: RunConfig) -> Path:
    """EPISODES episodes of FRAMES frames: smooth random motion before random pictures."""
    body, rng = get_embodiment(ROBOT), np.random.default_rng(0)
    write_lerobot(
        root,
        robot_type=ROBOT,
        fps=10,
        features=dataset_features(body, world, config.render),
        episodes=[_episode(rng, number, world, config.render.chunk) for number in range(EPISODES)],
    )
    return root


def _episode(rng: np.random.Generator, number: int, world: WorldConfig, chunk: int) -> EpisodeFrames:
    body = get_embodiment(ROBOT)
    state = np.cumsum(rng.normal(0, 0.03, (FRAMES, body.state_dim)), axis=0).astype(np.float32)
    state[:, -1] = np.clip(state[:, -1], 0, 1)
    ahead = np.minimum(np.arange(FRAMES)[:, None] + np.arange(chunk) // 2, FRAMES - 1)
    actions = state[ahead][..., : body.action_dim]
    side = world.image_px
    pictures: dict[str, list[bytes]] = {}
    for camera in world.cameras:
        coarse = rng.integers(0, 255, (FRAMES, side // 7, side // 7, 3), dtype=np.uint8)
        pictures[f"observation.images.{camera}"] = [_png(one.repeat(7, axis=0).repeat(7, axis=1)) for one in coarse]
    return EpisodeFrames(
        task=TASKS[number % len(TASKS)],
        values={
            "observation.state": state,
            "action": actions[:, 0],
            "action_chunk": actions,
            "action_chunk_is_pad": np.arange(chunk)[None] + 2 * np.arange(FRAMES)[:, None] >= 2 * (FRAMES - 1),
            "privileged.object_positions": rng.normal(0, 0.1, (FRAMES, 9)).astype(np.float32),
            "next.success": np.zeros((FRAMES, 1), dtype=bool),
        },
        pictures=pictures,
        histograms={name: picture_histogram(pngs) for name, pngs in pictures.items()},
        extra={"cell": f"{ROBOT}/PushCube", "seed": number, "geometry": "lite"},
    )


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_backbone(folder: Path, config: RunConfig, device: torch.device) -> Path:
    """The preset's backbone with random weights: the tiny one, or one in the shape of the published one it names, with
    fewer blocks where memory is short.
    """
    tokenizer = train_tokenizer([*TASKS, "where is the cube?"] * 20, config.stage1.tiny.vocab_size)
    if config.stage1.backbone == "tiny":
        model = build_tiny(config.stage1.tiny, tokenizer, 0)
        save_backbone(folder, model, make_processor(tokenizer))
        return folder
    from transformers import AutoModelForImageTextToText

    changes = {}
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        changes = {"num_hidden_layers": int(min(28, max(config.intents.layer, (free - 30e9) / GPU_BYTES_PER_BLOCK)))}
    size = "3b" if "3B" in config.stage1.backbone else "7b"
    torch.manual_seed(0)
    with torch.device(device):
        large = AutoModelForImageTextToText.from_config(qwen2_5_vl_config(size, **changes), dtype=torch.bfloat16)
    save_backbone(folder, large.cpu(), make_processor(tokenizer))
    return folder


def extractor_options(config: RunConfig) -> dict[str, Any]:
    """How the MLLM runs, cached as live: the arguments of `IntentExtractor` after the model and the block."""
    device = torch.device(config.resources.device)
    dtype = torch.float32 if config.stage1.backbone == "tiny" else torch.bfloat16
    return {
        "max_text_tokens": config.intents.max_text_tokens,
        "device": device.type,
        "dtype": dtype,
        "precision": resolve_precision(config.intents.precision, str(dtype).removeprefix("torch."), device),
    }


def write_cache(folder: Path, dataset: Path, backbone: Path, config: RunConfig) -> IntentCache:
    """The intent cache of the dataset, as the intents stage makes it, in this process."""
    settings, how = config.intents, extractor_options(config)
    key = cache_key(
        backbone,
        dataset,
        config.world.cameras,
        layer=settings.layer,
        max_text_tokens=settings.max_text_tokens,
    )
    options = WriterOptions(
        model_dir=str(backbone),
        layer=settings.layer,
        max_text_tokens=settings.max_text_tokens,
        cameras=config.world.cameras,
        variants=Variants(augment=settings.augment),
        device=how["device"],
        dtype=str(how["dtype"]).removeprefix("torch."),
        precision=how["precision"],
    )
    build = Build(
        dataset_dir=dataset,
        key=key,
        options=options,
        episodes_per_shard=settings.episodes_per_shard,
        workers={"workers": 0},
        progress=lambda _: None,
    )
    return build_cache(build, folder)
