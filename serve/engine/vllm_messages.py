"""What crosses between a replica and vLLM's worker process, which takes bytes and gives bytes: observations in, chunks
or a refusal out, as msgpack with arrays (`model/wire.py`). Both ends are ours.
"""

from collections.abc import Sequence

import numpy as np

from blm.model.errors import UserError
from blm.model.types import ActionChunk, ActionPrefix, ComputeTiming, Observation, Prefixes
from blm.model.wire import pack, unpack

LARGEST = 2**31
"""Bytes; what clients may send is bounded where it arrives."""


def pack_question(observations: Sequence[Observation], seeds: Sequence[int], prefixes: Prefixes | None) -> bytes:
    """One batch."""
    return pack(
        {
            "observations": [
                {
                    "images": one.images,
                    "state": np.asarray(one.state, dtype=np.float32),
                    "instruction": one.instruction,
                    "embodiment": one.embodiment,
                }
                for one in observations
            ],
            "seeds": [int(seed) for seed in seeds],
            "prefixes": None
            if prefixes is None
            else [prefix and {"actions": prefix.actions, "frozen": prefix.frozen} for prefix in prefixes],
        }
    )


def unpack_question(message: bytes) -> tuple[list[Observation], list[int], Prefixes | None]:
    """The batch. UserError for an observation that holds wrong values."""
    question = unpack(message, max_bytes=LARGEST)
    prefixes = question["prefixes"]
    return (
        [Observation(**one) for one in question["observations"]],
        question["seeds"],
        None if prefixes is None else [one and ActionPrefix(**one) for one in prefixes],
    )


def pack_answer(chunks: Sequence[ActionChunk], timing: ComputeTiming) -> bytes:
    """What the policy made of a batch."""
    return pack(
        {
            "chunks": [{"actions": chunk.actions, "control_hz": chunk.control_hz} for chunk in chunks],
            "timing": {
                "preprocess_ms": timing.preprocess_ms,
                "mllm_ms": timing.mllm_ms,
                "denoise_ms": timing.denoise_ms,
            },
        }
    )


def pack_refusal(reason: str) -> bytes:
    """Why there is no answer, for a mistake that a person can mend."""
    return pack({"refusal": reason})


def unpack_answer(message: bytes) -> tuple[list[ActionChunk], ComputeTiming]:
    """What the policy made. UserError if it refused."""
    answer = unpack(message, max_bytes=LARGEST)
    if "refusal" in answer:
        raise UserError(answer["refusal"])
    return [ActionChunk(**chunk) for chunk in answer["chunks"]], ComputeTiming(**answer["timing"])
