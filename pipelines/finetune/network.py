"""The network of Stage I on one worker: loaded, frozen where asked, wrapped for several workers, and written out.

Under FSDP2 each block of the language model is a group of its own; vision tower, merger, embeddings and head belong to
the root's group, which is whole during a forward pass. So a micro batch without pictures on one worker cannot make
the others wait for parameters, as long as its gradients have the same tensors: `Stage1Module` sees to that.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blm.model.backbone import load_backbone, load_config, save_backbone
from blm.model.chat_encoder import ChatEncoder
from blm.model.families import parts_of
from blm.model.grounding import GroundingHead
from blm.model.lora import add_lora, merge_lora
from blm.model.optim import freeze
from blm.model.packing import PackedBatch
from blm.model.sft import AnswerScores, SftModule, score_answers
from blm.model.training import compile_layers, enable_checkpointing, mixed_precision, resolve_precision
from blm.pipelines import workers
from blm.pipelines.stage1 import Stage1Config

Scores = tuple[list[bool], list[float], list[int]]
"""Of each conversation: all answer tokens right, their negative log likelihood (nats), their number."""


class Stage1Module(SftModule):
    """`SftModule` whose every forward pass reaches the same parameters, whatever the batch holds.

    Where there are no pictures, vision tower and grounding head get gradients of zeros: sharded workers must agree on
    which parameters have one, and an optimiser that remembers moments must not tell a step without pictures on one
    worker from the same step on several.
    """

    def forward(self, batch: PackedBatch, vision_only: bool = False) -> tuple[Tensor, Tensor]:
        """As `SftModule`."""
        language, grounding = super().forward(batch, vision_only)
        return language, grounding + sum(p.float().sum() for p in self._seeing() if p.requires_grad) * 0.0

    def score(self, batch: PackedBatch) -> AnswerScores:
        """How each conversation of a batch is answered."""
        return score_answers(self.mllm, batch)

    def _seeing(self) -> list[nn.Parameter]:
        parts = parts_of(self.mllm)
        modules = [parts.vision, *parts.mergers, *([self.head] if self.head is not None else [])]
        return list({id(p): p for module in modules for p in module.parameters()}.values())


@dataclass(kw_only=True, slots=True)
class Stage1Model:
    """What a worker holds of the network."""

    config: Stage1Config
    start: str
    module: Stage1Module
    wrapped: nn.Module
    """`module` behind its data-parallel wrapper."""
    processor: Any
    encoder: ChatEncoder
    autocast: AbstractContextManager[Any]
    device: torch.device

    @property
    def mllm(self) -> Any:
        """The multimodal model."""
        return self.module.mllm

    def losses(self, batch: PackedBatch, vision_only: bool) -> tuple[Tensor, Tensor]:
        """Sums of both losses over a micro batch."""
        with self.autocast:
            language, grounding = self.wrapped(batch.to(self.device), vision_only)
        return language, grounding

    @torch.no_grad()
    def score(self, batch: PackedBatch) -> Scores:
        """How well each conversation of a batch is answered. Called by every worker."""
        self.module.eval()
        with self.autocast:
            scores = self.module.score(batch.to(self.device))
        workers.reshard(self.module)
        return scores.correct.tolist(), scores.nll.tolist(), scores.tokens.tolist()

    def rates(self) -> dict[str, float]:
        """Learning rates of the modules, in units of the common one."""
        config = self.config
        return {"vision": config.vision_rate, "merger": config.merger_rate, "language": config.language_rate}


def build(config: Stage1Config, start: str, seed: int, dtype: str, device: torch.device) -> Stage1Model:
    """The network ready to be trained. Called by every worker; equal weights follow from `start` and `seed`."""
    torch.manual_seed(seed)  # the grounding head and LoRA's matrices start at random
    mllm, processor = load_backbone(start, device=str(device))
    head = GroundingHead(mllm.config.text_config.hidden_size).to(device) if config.grounding_weight > 0 else None
    if config.lora.rank > 0:
        add_lora(mllm, config.lora)
    module = Stage1Module(mllm, head)
    precision = resolve_precision(config.precision, dtype, device)
    model = Stage1Model(
        config=config,
        start=start,
        module=module,
        wrapped=module,
        processor=processor,
        encoder=ChatEncoder(processor, mllm.config),
        autocast=mixed_precision(device, precision),
        device=device,
    )
    freeze(module, model.rates())
    if config.gradient_checkpointing:
        enable_checkpointing(mllm)
    if config.compile:
        compile_layers(mllm)
    layers = parts_of(mllm).language_blocks
    model.wrapped = workers.parallelise(
        module, config.parallel, layers, forward_methods=("score",), sharded_precision=precision
    )
    return model


def save(model: Stage1Model, folder: Path) -> None:
    """Write the multimodal model as a plain Hugging Face folder, in the number format of where it came from; LoRA is
    merged. Called by every worker."""
    state = _whole_state(model.mllm)
    if dist.get_rank() != 0:
        return
    mllm = model.mllm
    if model.config.lora.rank > 0:
        mllm, _ = load_backbone(model.start)
        add_lora(mllm, model.config.lora)
        mllm.load_state_dict(state)
        merge_lora(mllm)
        state = mllm.state_dict()
    dtype = load_config(model.start).dtype or torch.float32
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_backbone(folder, mllm, model.processor, state_dict=state)


def _whole_state(mllm: nn.Module) -> dict[str, Tensor]:
    """All weights on rank 0, on the CPU, whatever the sharding."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(mllm, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
