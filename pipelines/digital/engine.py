"""What the two ways of generating share: the question as text and media, and what comes back.

Both put a question through the model folder's own chat template and give its processor the same pictures and frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from blm.model.prompts import Message, chat_content
from blm.pipelines.digital.item import Decoding
from blm.pipelines.digital.media import Clip, Shown

END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A question with everything that is shown."""

    messages: Sequence[Message]
    """What is said, with placeholders for media."""
    media: Sequence[Shown]
    """In the order of the placeholders."""
    decoding: Decoding
    """How the answer is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model said."""

    text: str = ""
    """As it came."""
    finished: bool = True
    """Whether it ended by itself, not by the limit."""
    error: str = ""
    """Why nothing could be said."""


class Engine(Protocol):
    """A model that answers."""

    def answer(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each question, in order."""


def prompt_of(processor: Any, ask: Ask) -> str:
    """The question as the model's own chat template words it, up to where the answer begins."""
    return str(processor.apply_chat_template(chat_content(ask.messages), tokenize=False, add_generation_prompt=True))


def pictures(ask: Ask) -> list[Any]:
    """The question's still pictures."""
    return [shown for shown in ask.media if not isinstance(shown, Clip)]


def clips(ask: Ask) -> list[Clip]:
    """The question's videos."""
    return [shown for shown in ask.media if isinstance(shown, Clip)]


def video_facts(clip: Clip) -> dict[str, Any]:
    """What a processor wants to know of frames that are sampled already."""
    n = len(clip.frames)
    return {"fps": clip.fps, "duration": n / clip.fps, "total_num_frames": n, "frames_indices": list(range(n))}


def stop_tokens(tokenizer: Any, generation_eos: int | Sequence[int] | None) -> list[int]:
    """Tokens that end an answer: those that the model declares, and the end of a turn."""
    declared = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or ())
    found = {*declared, tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_TURN)}
    return sorted(token for token in found if token is not None)


def reply_of(tokenizer: Any, tokens: Sequence[int], stop: Sequence[int]) -> Reply:
    """Generated tokens as a reply, up to the first that ends it."""
    end = next((place for place, token in enumerate(tokens) if token in stop), None)
    said = list(tokens if end is None else tokens[:end])
    return Reply(text=tokenizer.decode(said).strip(), finished=end is not None)
