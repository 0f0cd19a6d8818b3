"""Low-rank adapters (LoRA, Hu et al. 2021) through the `peft` library.

Adapters are put into the model in place, so that its parts keep their paths. Merged, the model is what it was before
with other weights, and loads without `peft`.
"""

from typing import Any

from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from blm.model.families import parts_of
from blm.model.options import LoraConfig

ADAPTER = "default"


def add_lora(model: Any, config: LoraConfig) -> None:
    """Put adapters on every linear layer of the language model's blocks (and of the vision tower's, if asked), and
    freeze all else: embeddings, norms, merger, output layer.
    """
    parts = parts_of(model)
    blocks = [*parts.language_blocks, *(parts.vision_blocks if config.vision else [])]
    inside = {id(module) for block in blocks for module in block.modules() if isinstance(module, nn.Linear)}
    targets = [name for name, module in model.named_modules() if id(module) in inside]
    inject_adapter_in_model(
        PeftConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, bias="none"
        ),
        model,
        adapter_name=ADAPTER,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_lora(model: Any) -> None:
    """Add the adapters to the weights they stand beside, and take them out again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
