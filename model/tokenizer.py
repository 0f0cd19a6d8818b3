"""A small tokenizer of our own, for backbones made from scratch.

Byte-level BPE (no text is ever unknown) trained on the corpora, with Qwen's chat markers and the 64 position words
as single tokens. A pre-trained backbone brings its own tokenizer and never comes here.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from blm.model.prompts import CHAT_TEMPLATE, LOC_TOKENS, SPECIAL_TOKENS

_WORDS = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on `texts` up to `vocab_size` tokens (256 bytes, markers and position words included)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    markers = [*SPECIAL_TOKENS, *LOC_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    bpe.train_from_iterator((_without_markers(text, markers) for text in texts), trainer)
    bpe.add_tokens(list(LOC_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _without_markers(text: str, markers: list[str]) -> str:
    for marker in markers:
        if marker in text:
            text = text.replace(marker, " ")
    return text
