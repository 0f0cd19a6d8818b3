"""The policy on vLLM's own layers, in a process of vLLM's: beside the policy on layers of its own, and beside a vLLM
that has no policy in it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_policy import write_small_policy

CHECK = Path(__file__).with_name("vllm_backbone_check.py")
DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `vllm_backbone_check.py` found for an untrained model, in each number format."""
    folder = write_windowed_policy(tmp_path_factory.mktemp("borrowed"))
    found = subprocess.run([sys.executable, str(CHECK), str(folder), *DTYPES], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    return dict(json.loads(found.stdout.splitlines()[-1]))


def write_windowed_policy(folder: Path) -> Path:
    """A checkpoint whose vision tower looks through windows in its first block, as published models do, with weights
    large enough that all layers matter."""
    import torch

    from blm.model.backbone import build_tiny, make_processor, save_backbone
    from blm.model.options import TinyBackboneConfig
    from blm.model.tokenizer import train_tokenizer

    config = TinyBackboneConfig(vision_depth=2, vision_width=64, depth=3, width=96, vocab_size=512)
    tokenizer = train_tokenizer(["Where is the cube?", "Push the cube to the goal.", "Your task is to wait."] * 20, 512)
    model = build_tiny(config, tokenizer)
    model.config.vision_config.fullatt_block_indexes = [1]
    model.config.vision_config.window_size = 56
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    save_backbone(folder / "mllm", model, make_processor(tokenizer))
    return write_small_policy(folder / "model", folder / "mllm", cameras=("front", "side"))


@pytest.mark.slow
def test_hidden_states_are_those_of_the_models_own_layers(found):
    exact, half = found["float32"], found["bfloat16"]
    assert exact["sharing"] == half["sharing"] == "one"
    assert exact["masks"]
    for part in ("pictures", "texts", "shared_pictures", "shared_texts"):
        assert exact[part] < 1e-4
        assert half[part] < 0.03


@pytest.mark.slow
def test_chunks_are_those_of_the_policy_on_its_own(found):
    assert found["float32"]["chunks_rad"] < 1e-3 * found["float32"]["chunks_std"]
    assert found["bfloat16"]["chunks_rad"] < 0.3 * found["bfloat16"]["chunks_std"]


@pytest.mark.slow
def test_a_conversation_is_the_same_before_and_after_the_policy_moves_in(found):
    for dtype in DTYPES:
        before, after = found[dtype]["said_before"], found[dtype]["said_after"]
        assert before == after
        assert len(set(before)) > 1


@pytest.mark.slow
def test_a_model_that_is_put_together_in_another_way_gets_copies_or_is_refused(found):
    foreign = found["float32"]["foreign"]
    assert foreign["auto"] == "copies"
    assert "sharing" in foreign["one"]
