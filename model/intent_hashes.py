"""What an intent depends on besides its pictures and its instruction, as hashes of files and numbers.

The weights and the preparation of pictures and prompts are told apart, so that whoever refuses intents because one of
them changed can say which.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from blm.model.prompts import policy_messages
from blm.model.vision import MERGE, PATCH_PX, PICTURE_MEAN, PICTURE_STD

PREPROCESSING_VERSION = 2  # raise it when pictures or prompts are prepared in another way
_PREPARATION = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def weights_hash(model_dir: str | Path) -> str:
    """16 hexadecimal digits over a model folder's weights and its config.json."""
    folder = Path(model_dir)
    return _hash("", [*sorted(folder.glob("model*.safetensors")), folder / "config.json"])


def preprocessing_hash(model_dir: str | Path, layer: int, max_text_tokens: int) -> str:
    """16 hexadecimal digits over the tap `layer`, the room for text, prompt, tokenizer and picture normalisation."""
    prompt = policy_messages(1, "{instruction}")[0]["text"]
    numbers = (PREPROCESSING_VERSION, layer, max_text_tokens, prompt, PATCH_PX, MERGE, PICTURE_MEAN, PICTURE_STD)
    return _hash(repr(numbers), [Path(model_dir) / name for name in _PREPARATION])


def fingerprint(model_dir: str | Path, layer: int, max_text_tokens: int) -> str:
    """Both in one: equal for two extractors that make the same intents of the same observations."""
    return _hash(weights_hash(model_dir) + preprocessing_hash(model_dir, layer, max_text_tokens), [])


def _hash(text: str, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(text.encode())
    for file in files:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
