"""Pictures and videos as a family's own processor sees them: the words that stand for them, and their pixels.

The words depend on size alone and are asked for once a size, with a blank picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.video_utils import VideoMetadata

from blm.model.errors import UserError
from blm.model.families import Family
from blm.model.packing import TEMPORAL_PATCH, RowMedia
from blm.model.rope import Grid

_NOT_MEDIA = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "second_per_grid_ts", "num_patches"}
GRIDS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
"""What `get_rope_index` of a model wants to know about media."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoShape:
    """What the tokens of a video depend on."""

    frames: int
    height: int
    width: int
    fps: float
    """Frames a second, as they were kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What stands for one picture or video."""

    text: str
    """Its placeholder words, repeated and framed as the family wants them."""
    grids: tuple[Grid, ...]
    """Its language tokens, for multimodal rotary positions."""
    inputs: dict[str, Tensor]
    """Its part of the processor's GRIDS."""


class MediaProcessor:
    """Pictures and videos for one model."""

    def __init__(self, processor: Any, config: PretrainedConfig, family: Family) -> None:
        self._processor = processor
        self._vision = config.vision_config
        self._family = family
        self._blocks: dict[tuple[Any, bool], Block] = {}
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def image(self, size: tuple[int, int], *, alone: bool) -> Block:
        """What stands for a picture of this (height, width); some families cut a lone one into finer tiles."""
        key = (size, alone)
        if key not in self._blocks:
            blank = np.zeros((*size, 3), dtype=np.uint8)
            self._blocks[key] = self._block(self._images([blank] if alone else [blank, blank]), "image")
        return self._blocks[key]

    def video(self, shape: VideoShape) -> Block:
        """What stands for a video of this shape. UserError if it is empty or has no rate."""
        if shape.frames < 1 or shape.fps <= 0:
            raise UserError(f"a video of {shape.frames} frames at {shape.fps} a second; give frames and their rate")
        key = (shape, True)
        if key not in self._blocks:
            blank = np.zeros((shape.frames, shape.height, shape.width, 3), dtype=np.uint8)
            self._blocks[key] = self._block(self._video(blank, shape.fps), "video")
        return self._blocks[key]

    def media(self, images: Sequence[np.ndarray], videos: Sequence[tuple[np.ndarray, float]]) -> RowMedia:
        """Pixels of one conversation: uint8 [H, W, 3] each, and (uint8 [F, H, W, 3], frames a second) each."""
        images = [np.require(image, requirements="W") for image in images]  # torch warns about read-only memory
        videos = [(np.require(frames, requirements="W"), fps) for frames, fps in videos]
        if self._family.fast_vision:
            return RowMedia(
                images=tuple(self._resized(self._processor.image_processor, image[None])[0] for image in images),
                videos=tuple(self._whole_pairs(frames) for frames, _ in videos),
            )
        calls = [self._video(*video) for video in videos]
        if images:
            calls.insert(0, self._images(images))
        found: dict[str, list[Tensor]] = {}
        for call in calls:
            for name, value in call.items():
                if name not in _NOT_MEDIA and isinstance(value, Tensor):
                    found.setdefault(name, []).append(value)
        return RowMedia(inputs={name: torch.cat(parts) for name, parts in found.items()})

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels that a still picture of this size has in `media`, for families with a batched
        vision path; the others' pictures keep no single size."""
        size = (height, width)
        if self._family.fast_vision and size not in self._sizes:
            blank = np.zeros((1, height, width, 3), dtype=np.uint8)
            _, *resized, _ = self._resized(self._processor.image_processor, blank).shape
            self._sizes[size] = (resized[0], resized[1])
        return self._sizes.get(size, size)

    def _block(self, call: dict[str, Any], what: str) -> Block:
        text = call["text_replacement_offsets"][0][0]["replacement"]
        inputs = {name: torch.as_tensor(call[name])[:1] for name in GRIDS if name in call}
        return Block(text=text, grids=self._grids(what, inputs), inputs=inputs)

    def _grids(self, what: str, inputs: dict[str, Tensor]) -> tuple[Grid, ...]:
        if f"{what}_grid_thw" not in inputs:
            return ()
        frames, height, width = inputs[f"{what}_grid_thw"][0].tolist()
        rows, cols = height // self._vision.spatial_merge_size, width // self._vision.spatial_merge_size
        if self._family.positions == "qwen3_vl":  # time stands in words before each pair of frames
            return tuple(Grid(rows=rows, cols=cols) for _ in range(frames))
        if what == "image" or "second_per_grid_ts" not in inputs:
            return (Grid(frames=frames, rows=rows, cols=cols),)
        step = getattr(self._vision, "tokens_per_second", 1) * float(inputs["second_per_grid_ts"][0])
        return (Grid(frames=frames, rows=rows, cols=cols, step=step),)

    def _images(self, images: Sequence[np.ndarray]) -> dict[str, Any]:
        return self._processor(
            text=[self._processor.image_token * len(images)],
            images=[list(images)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )

    def _video(self, frames: np.ndarray, fps: float) -> dict[str, Any]:
        metadata = VideoMetadata(
            total_num_frames=len(frames),
            fps=fps,
            duration=len(frames) / fps,
            frames_indices=list(range(len(frames))),
        )
        return self._processor(
            text=[self._processor.video_token],
            videos=[frames],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            videos_kwargs={"video_metadata": [metadata], "do_sample_frames": False},
        )

    def _whole_pairs(self, frames: np.ndarray) -> np.ndarray:
        frames = self._resized(self._processor.video_processor, frames, video=True)
        missing = -len(frames) % TEMPORAL_PATCH
        return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames

    @staticmethod
    def _resized(part: Any, pictures: np.ndarray, *, video: bool = False) -> np.ndarray:
        """uint8 [N, H, W, 3] brought to whole tokens by the image or video processor itself."""
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        options = {"size": part.size, "resample": part.resample, "factor": part.patch_size * part.merge_size}
        if video:
            options["cap_pixels_per_frame"] = bool(part.cap_pixels_per_frame)
            tensor = part.resize(videos=tensor[None], **options)[0]
        else:
            tensor = part.resize(images=tensor, **options)
        return tensor.permute(0, 2, 3, 1).contiguous().numpy()
