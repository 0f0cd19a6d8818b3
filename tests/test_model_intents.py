"""The intent extractor: equal to transformers' hidden states at block k, padded, truncated, shared, fingerprinted."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_families import FAMILIES, write_family

from blm.model.backbone import load_backbone
from blm.model.errors import UserError
from blm.model.intent_hashes import fingerprint, preprocessing_hash, weights_hash
from blm.model.intents import ROWS, IntentExtractor
from blm.model.prompts import chat_content, policy_messages

INSTRUCTIONS = ["push the blue cube to the target", "pick"]


def observations(n: int, cameras=("front", "side")) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(n)
    return [{camera: rng.integers(0, 255, (56, 56, 3), dtype=np.uint8) for camera in cameras} for _ in range(n)]


def close(rounded: torch.Tensor, exact: torch.Tensor, error: float = 1e-5) -> bool:
    """Whether bfloat16 numbers are these numbers, rounded."""
    assert rounded.dtype == torch.bfloat16
    return torch.allclose(rounded.float(), exact, rtol=2**-7, atol=error)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_states_equal_the_full_models_hidden_states(tiny_mllm, layer):
    extractor = IntentExtractor(tiny_mllm, layer=layer, max_text_tokens=64)
    model, processor = load_backbone(tiny_mllm)
    seen = observations(2)
    intents = extractor.encode(seen, INSTRUCTIONS)
    captured: list[torch.Tensor] = []
    hook = model.model.language_model.layers[layer - 1].register_forward_hook(
        lambda _module, _inputs, output: captured.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    for i, instruction in enumerate(INSTRUCTIONS):
        text = processor.apply_chat_template(
            chat_content(policy_messages(2, instruction)), tokenize=False, add_generation_prompt=True
        )
        pictures = [Image.fromarray(picture) for picture in seen[i].values()]
        inputs = processor(text=[text], images=pictures, return_tensors="pt")
        with torch.no_grad():
            model(**inputs)
        hidden = captured.pop()[0]
        first = int((inputs.input_ids[0] == model.config.image_token_id).nonzero()[0])
        n = len(hidden) - first
        assert close(intents.states[i, :n], hidden[first:])
        assert intents.mask[i].sum() == n
        assert not intents.states[i, n:].any()
    hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [56, 90])
def test_any_family_gives_its_hidden_states(family, side, tmp_path):
    folder = write_family(tmp_path / family, family)
    extractor = IntentExtractor(folder, layer=2, max_text_tokens=64)
    model, processor = load_backbone(folder)
    rng = np.random.default_rng(0)
    pictures = [{c: rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for c in ("front", "side")} for _ in range(2)]
    intents = extractor.encode(pictures, INSTRUCTIONS)
    assert intents.states.shape == (2, extractor.length([(side, side)] * 2), 96)
    entering: list[torch.Tensor] = []
    model.model.language_model.layers[2].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    for i, instruction in enumerate(INSTRUCTIONS):
        text = processor.apply_chat_template(
            chat_content(policy_messages(2, instruction)), tokenize=False, add_generation_prompt=True
        )
        inputs = processor(text=[text], images=[list(pictures[i].values())], return_tensors="pt")
        with torch.no_grad():
            model(**inputs)
        hidden = entering.pop()[0]
        first = int((inputs.input_ids[0] == model.config.image_token_id).nonzero()[0])
        n = len(hidden) - first
        assert close(intents.states[i, :n], hidden[first:], 1e-4)
        assert intents.mask[i].sum() == n


def test_a_row_does_not_depend_on_its_batch(tiny_mllm):
    extractor = IntentExtractor(tiny_mllm, layer=2, max_text_tokens=64)
    seen = observations(3)
    instructions = [*INSTRUCTIONS, "pull"]
    together = extractor.encode(seen, instructions).states
    alone = torch.cat([extractor.encode([o], [t]).states for o, t in zip(seen, instructions, strict=True)])
    assert close(together, alone.float())


def test_image_states_do_not_depend_on_the_instruction(tiny_mllm):
    extractor = IntentExtractor(tiny_mllm, layer=3, max_text_tokens=64)
    seen = observations(1)
    one, other = (extractor.encode(seen, [text]).states[0] for text in INSTRUCTIONS)
    tokens = 2 * 4 + 2  # two pictures of four tokens, and the markers between them
    assert close(one[:tokens], other[:tokens].float())
    assert not torch.allclose(one[tokens : tokens + 8], other[tokens : tokens + 8], atol=1e-3)


def test_mistakes_are_told(tiny_mllm):
    with pytest.raises(UserError, match="blocks 1 to 3"):
        IntentExtractor(tiny_mllm, layer=4)
    with pytest.raises(UserError, match="max_text_tokens=4"):
        IntentExtractor(tiny_mllm, layer=1, max_text_tokens=4).encode(observations(1), INSTRUCTIONS[:1])


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_seen_once_for_all_their_instructions(family, tmp_path):
    extractor = IntentExtractor(write_family(tmp_path / family, family), layer=2, max_text_tokens=64)
    pictures = np.random.default_rng(0).integers(0, 255, (2, 2, 56, 56, 3), dtype=np.uint8)
    parts = extractor.parts(pictures, [INSTRUCTIONS, ["pull"]])
    assert len(parts.pictures) == 2
    for text, (row, instruction) in enumerate([(0, INSTRUCTIONS[0]), (0, INSTRUCTIONS[1]), (1, "pull")]):
        alone = extractor.parts(pictures[row : row + 1], [[instruction]])
        assert parts.lengths[text] == alone.lengths[0]
        n = int(alone.lengths[0])
        assert torch.allclose(parts.pictures[row], alone.pictures[0], atol=1e-4)
        assert torch.allclose(parts.texts[text, :n], alone.texts[0, :n], atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_the_same_bits_in_any_batch(family, precision, tmp_path):
    folder = write_family(tmp_path / family, family)
    extractor = IntentExtractor(folder, layer=2, max_text_tokens=64, precision=precision)
    pictures = np.random.default_rng(0).integers(0, 255, (ROWS + 5, 1, 56, 56, 3), dtype=np.uint8)
    texts = [(*INSTRUCTIONS, "pull")[i % 3] for i in range(len(pictures))]
    together = extractor.encode_stacked(pictures, texts)
    for some in ([ROWS + 4, 3, 17], [5]):
        alone = extractor.encode_stacked(pictures[some], [texts[i] for i in some], exact=True)
        assert torch.equal(together.states[some], alone.states)
        assert torch.equal(together.mask[some], alone.mask)


def test_bfloat16_products_change_the_states_by_a_few_per_mille(tiny_mllm):
    pictures = np.random.default_rng(0).integers(0, 255, (4, 1, 56, 56, 3), dtype=np.uint8)
    full, half = (
        IntentExtractor(tiny_mllm, layer=3, max_text_tokens=64, precision=precision)
        .parts(pictures, [INSTRUCTIONS[:1]] * 4)
        .pictures.float()
        for precision in ("float32", "bfloat16")
    )
    error = (half - full).norm() / full.norm()
    assert 1e-5 < error < 0.03


def test_the_fingerprint_follows_weights_and_layer(tiny_mllm, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_mllm, copy)
    same = fingerprint(tiny_mllm, 2, 32)
    assert fingerprint(copy, 2, 32) == same
    assert fingerprint(copy, 1, 32) != same
    preparation = preprocessing_hash(copy, 2, 32)
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy, 2, 32) != same
    assert preprocessing_hash(copy, 2, 32) == preparation


def test_one_number_of_the_picture_normalisation_changes_the_preprocessing_alone(tiny_mllm, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_mllm, copy)
    file = copy / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_mean"][0] += 0.01
    file.write_text(json.dumps(settings))
    assert preprocessing_hash(copy, 2, 32) != preprocessing_hash(tiny_mllm, 2, 32)
    assert weights_hash(copy) == weights_hash(tiny_mllm)
