"""Every preset parses, and every model it names builds: on the meta device, without memory or download."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from blm.actors.sim.world import parse_cell
from blm.model.backbone import tiny_config
from blm.model.layout import layout_of
from blm.model.policy import Policy
from blm.model.tokenizer import train_tokenizer
from blm.pipelines.config import RunConfig, load_config
from blm.pipelines.preset_files import presets, summary

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}
"""Language dimensions of the published backbones, from their model cards: their configuration files are on the hub."""

SMALL, LARGE = (2e6, 6e6), (8.0e9, 8.6e9)
MLLM_PARAMETERS = {"small": (3.5e9, 4.1e9), "paper": LARGE, "paper_robot": LARGE, "paper_cell": LARGE}
POLICY_PARAMETERS = {"small": (1e8, 3e8), "paper": (1e8, 4e8), "paper_robot": (1e8, 4e8), "paper_cell": (1e8, 4e8)}
"""Of the presets that are not for two CPU cores."""


def backbone_config(config: RunConfig) -> Qwen2_5_VLConfig:
    """The Hugging Face configuration of a preset's multimodal model."""
    name = config.stage1.backbone
    if name == "tiny":
        return tiny_config(
            config.stage1.tiny, train_tokenizer(["where is the cube?"] * 50, config.stage1.tiny.vocab_size)
        )
    language = PUBLISHED[name]
    return Qwen2_5_VLConfig(text_config=language, vision_config=VISION | {"out_hidden_size": language["hidden_size"]})


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_shipped_presets_are_listed_from_small_to_large() -> None:
    order = ["tiny", "laptop", "grid24", "small", "paper", "paper_robot", "paper_cell"]
    assert list(presets()) == [name for name in order if name in presets()]
    assert {"tiny", "paper", "paper_robot", "paper_cell"} <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_preset_parses_and_says_what_it_is_for(name: str) -> None:
    assert load_config(name).name == name
    assert len(summary(presets()[name])) > 20


@pytest.mark.parametrize("name", presets())
def test_every_multimodal_model_builds(name: str) -> None:
    config = load_config(name)
    architecture = backbone_config(config)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(architecture)
    low, high = MLLM_PARAMETERS.get(name, SMALL)
    assert low < count(model) < high
    assert config.intents.layer <= architecture.text_config.num_hidden_layers


@pytest.mark.parametrize("name", presets())
def test_every_policy_builds_for_the_robots_of_its_world(name: str) -> None:
    config = load_config(name)
    robots = tuple(dict.fromkeys(parse_cell(cell).robot for cell in config.world.cells))
    with torch.device("meta"):
        policy = Policy(
            config.stage2.policy,
            layouts=[layout_of(robot) for robot in robots],
            intent_width=backbone_config(config).text_config.hidden_size,
            max_tokens=64,
        )
    low, high = POLICY_PARAMETERS.get(name, SMALL)
    assert low < count(policy) < high
    assert config.stage2.policy.chunk == config.render.chunk


def test_the_papers_three_settings_differ_in_how_many_models_are_trained() -> None:
    one, robots, cells = (load_config(name) for name in ("paper", "paper_robot", "paper_cell"))
    assert [config.stage2.per for config in (one, robots, cells)] == ["all", "robot", "cell"]
    for config in (robots, cells):  # so that a run of the same name shares every stage before
        assert (config.world, config.collect, config.render) == (one.world, one.collect, one.render)
        assert (config.corpora, config.stage1, config.intents) == (one.corpora, one.stage1, one.intents)
        assert config.stage2.policy == one.stage2.policy


@pytest.mark.parametrize("name", ["grid24", "paper"])
def test_the_whole_grid_is_every_robot_on_every_task(name: str) -> None:
    cells = load_config(name).world.cells
    assert len(cells) == 24
    assert len({cell.split("/")[0] for cell in cells}) == 4
    assert len({cell.split("/")[1] for cell in cells}) == 6


def test_tiny_asks_for_no_more_than_two_cores_and_no_gpu() -> None:
    resources = load_config("tiny").resources
    assert (resources.num_cpus, resources.num_gpus, resources.device) == (2, 0, "cpu")


def test_a_copy_of_a_preset_in_another_place_is_a_preset_too(tmp_path: Path) -> None:
    copy = tmp_path / "own.yaml"
    copy.write_text(presets()["tiny"].read_text().replace("name: tiny", "name: own"))
    assert load_config(str(copy)).stage2 == load_config("tiny").stage2
