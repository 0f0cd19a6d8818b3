"""Generation with transformers' own `generate`: slower than vLLM, and what anybody gets who loads the folder."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from blm.pipelines.digital.engine import Ask, Reply, clips, pictures, prompt_of, reply_of, stop_tokens, video_facts
from blm.pipelines.digital.item import Decoding


class TransformersEngine:
    """A model and its processor in this process."""

    def __init__(self, *, model: str, device: str, dtype: str, max_length: int = 0) -> None:
        """Load a folder or hub name. max_length: tokens of question and answer; 0: what the model declares.

        UserError if the model cannot be loaded.
        """
        import torch
        from transformers.utils import logging

        from blm.model.backbone import load_backbone

        logging.set_verbosity_error()  # notices of coming releases, once a worker
        if device == "cpu":
            torch.set_num_threads(1)
        self._model, self._processor = load_backbone(model, device=device, dtype=getattr(torch, dtype))
        self._device = device
        declared = self._model.config.get_text_config().max_position_embeddings
        self._max_length = min(max_length or declared, declared)
        self._stop = stop_tokens(self._processor.tokenizer, self._model.generation_config.eos_token_id)

    def answer(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each question, in order; those that are drawn alike are answered together."""
        replies: list[Reply | None] = [None] * len(asks)
        order = sorted(range(len(asks)), key=lambda i: str(asks[i].decoding))
        for decoding, group in groupby(order, key=lambda i: asks[i].decoding):
            places = list(group)
            for place, reply in zip(places, self._answer([asks[i] for i in places], decoding), strict=True):
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    def _answer(self, asks: Sequence[Ask], decoding: Decoding) -> list[Reply]:
        """Replies to questions of one decoding. Those too long for the model are answered by an error."""
        import torch

        inputs = self._inputs(asks)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        room = self._max_length - 1
        if max(lengths) > room:
            fit = [ask for ask, length in zip(asks, lengths, strict=True) if length <= room]
            said = iter(self._answer(fit, decoding) if fit else ())
            return [next(said) if n <= room else Reply(error=f"{n} tokens, {room} are allowed") for n in lengths]
        torch.manual_seed(decoding.seed)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs.to(self._device),
                max_new_tokens=min(decoding.max_new_tokens, self._max_length - max(lengths)),
                eos_token_id=self._stop,
                pad_token_id=self._processor.tokenizer.pad_token_id,
                **_drawing(decoding),
            )
        said_tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [reply_of(self._processor.tokenizer, tokens, self._stop) for tokens in said_tokens]

    def _inputs(self, asks: Sequence[Ask]) -> Any:
        """The batch as the folder's own processor makes it, padded on the left."""
        arguments: dict[str, Any] = {}
        if images := [picture for ask in asks for picture in pictures(ask)]:
            arguments["images"] = images
        if videos := [clip for ask in asks for clip in clips(ask)]:
            from transformers.video_utils import VideoMetadata

            arguments |= {
                "videos": [clip.frames for clip in videos],
                "video_metadata": [VideoMetadata(**video_facts(clip)) for clip in videos],
                "do_sample_frames": False,
            }
        texts = [prompt_of(self._processor, ask) for ask in asks]
        return self._processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **arguments)


def _drawing(decoding: Decoding) -> dict[str, Any]:
    """Options of `generate`. Published models bring sampling settings along; greedy generation needs none of them."""
    if decoding.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
