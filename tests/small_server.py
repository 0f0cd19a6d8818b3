"""What the tests of the server share: an untrained checkpoint that knows a few words, and good requests for it."""

import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from small_policy import write_small_policy

from blm.serve.web.codec import encode_picture

STATE = [0.0, 0.4, 0.0, -2.0, 0.0, 2.4, 0.8, 1.0]


def write_speaking_policy(folder: Path) -> Path:
    """`folder/model`: a checkpoint with everything in it, whose tokenizer knows the words of the README's example."""
    from blm.model.backbone import build_tiny, make_processor, save_backbone
    from blm.model.options import TinyBackboneConfig
    from blm.model.tokenizer import train_tokenizer

    config = TinyBackboneConfig(vision_depth=2, vision_width=64, depth=3, width=96, vocab_size=512)
    texts = ["Where is the cube?", "Your task is to push the blue cube onto the target.", "You describe what you see."]
    tokenizer = train_tokenizer(texts * 20, config.vocab_size)
    save_backbone(folder / "mllm", build_tiny(config, tokenizer), make_processor(tokenizer))
    return write_small_policy(folder / "model", folder / "mllm", cameras=("front", "side"))


def picture(px: int = 112, seed: int = 0) -> np.ndarray:
    """A picture of noise, uint8 [px, px, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)


def action_request(**changes: Any) -> dict[str, Any]:
    """A good request for actions, with changes."""
    images = {"front": encode_picture(picture()), "side": encode_picture(picture(seed=1))}
    return {"embodiment": "panda", "instruction": "push the cube", "state": STATE, "images": images, **changes}


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You describe what you see."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": encode_picture(picture())}},
            {"type": "text", "text": "Where is the cube?"},
        ],
    },
]
"""A system turn, and a picture with a question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running `blm serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON of a GET, or of a POST if there is a body (bytes go as they are)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
