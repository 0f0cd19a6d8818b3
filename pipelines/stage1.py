"""Stage I: supervised fine-tuning of the multimodal LLM on the corpora; embodied knowledge in, language kept.

A published backbone is fine-tuned as it is. A tiny one is made from scratch: tokenizer trained on the corpora,
vision tower warmed up on where things are in the picture (GroundingHead), then everything on the conversations,
answers alone counting. `docs/training.md` says what the options are for.

    blm stage1 --preset tiny
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blm.cluster import depot
from blm.model.errors import UserError
from blm.model.options import LoraConfig, OptimizerName, Precision, TinyBackboneConfig
from blm.pipelines.mixture import MixtureEntry, check_mixture
from blm.pipelines.workspace import StageContext, read_json

VERSION = 2
HIGH_RATE = 1e-4
"""A learning rate above it makes a published backbone forget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage1Config:
    """What is trained, on how much, and how fast."""

    backbone: str = "tiny"
    """`tiny`: made from scratch as `tiny` says. Otherwise a local folder or a published model by its hub name, of any
    family that transformers loads as image-text-to-text."""
    tiny: TinyBackboneConfig = field(default_factory=TinyBackboneConfig)
    """Size of the tiny backbone."""
    vision_steps: int = 600
    """Warm-up steps of a tiny backbone's vision tower on the grounding loss alone."""
    vision_batch: int = 48
    """Rows a step of the warm-up."""
    steps: int = 700
    """Optimiser steps on conversations. With 0, and without a warm-up, the backbone is kept as it was initialised or
    published: what Stage I brings is measured against that."""
    batch: int = 32
    """Conversations a step, over all workers."""
    mixture: tuple[MixtureEntry, ...] = ()
    """How much of each source is trained on; none: every conversation once an epoch."""
    micro_tokens: int = 8192
    """Tokens that a worker packs into one forward pass; more of a step's go into further ones, their gradients
    added."""
    optimizer: OptimizerName = "muon"
    """`muon` for the blocks' matrices of a backbone made from scratch; `adamw` fine-tunes published ones; `adamw8bit`
    is the same with a quarter of the state (needs the extra `lowbit`)."""
    learning_rate: float = 2e-3
    """AdamW's peak (Muon's is three times that); linear warm-up over `warmup` steps, then cosine to 5 % of it."""
    vision_rate: float = 1.0
    """The vision tower's learning rate, in units of `learning_rate`; 0 freezes it."""
    merger_rate: float = 1.0
    """That of what turns its output into language tokens; 0 freezes it."""
    language_rate: float = 1.0
    """That of the language model; 0 freezes it."""
    warmup: int = 40
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's, on matrices alone."""
    clip_norm: float = 1.0
    """Gradients are clipped to this norm."""
    max_skipped: int = 20
    """Steps whose gradients are not finite are skipped and counted; more of them than this end the run."""
    ema: float = 0.0
    """Decay of the average of the weights that is measured and saved instead of the last ones; 0 keeps none."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank matrices beside frozen weights, merged when saved; rank 0 trains the weights themselves."""
    grounding_weight: float = 1.0
    """Weight of the grounding loss beside the language loss; 0 trains on language alone (published backbones)."""
    precision: Precision = "auto"
    """Of matrix products; weights stay float32. auto: as resources.dtype says, and bfloat16 on CPUs that have it."""
    gradient_checkpointing: bool = False
    """Keep only the blocks' inputs and compute the rest again for the gradient: less memory, a third more work."""
    compile: bool = False
    """Compile the blocks with torch.compile."""
    max_length: int = 1024
    """Longest conversation in tokens; a longer one is an error."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Data parallelism: replicas, or parameters sharded over workers (FSDP2)."""
    cache_gb: float = 2.0
    """Decoded pictures a worker keeps."""
    eval_rows: int = 1000
    """Held-out questions asked before and after."""
    checkpoint_every_s: float = 30.0
    """Seconds between training checkpoints."""

    def __post_init__(self) -> None:
        for name in ("batch", "vision_batch", "max_length", "eval_rows", "micro_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"stage1.{name} is {getattr(self, name)}; give 1 or more")
        rates = ("vision_rate", "merger_rate", "language_rate")
        for name in ("steps", "vision_steps", "warmup", "max_skipped", "cache_gb", *rates):
            if getattr(self, name) < 0:
                raise UserError(f"stage1.{name} is {getattr(self, name)}; give 0 or more")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise UserError("stage1.learning_rate and stage1.clip_norm must be above 0")
        if not 0 <= self.ema < 1:
            raise UserError(f"stage1.ema is {self.ema}; give a decay from 0 (no average) to below 1")
        if self.micro_tokens < self.max_length:
            raise UserError(
                f"stage1.micro_tokens is {self.micro_tokens}, but a conversation may have stage1.max_length ="
                f" {self.max_length} tokens; give at least that"
            )
        check_mixture(self.mixture)
        self._check_choices()

    def _check_choices(self) -> None:
        """UserError for options that do not go together."""
        if self.optimizer == "muon" and self.parallel == "fsdp":
            raise UserError("stage1.optimizer muon needs whole matrices; set it to adamw, or stage1.parallel to ddp")
        if self.optimizer == "adamw8bit" and self.parallel == "fsdp":
            raise UserError("stage1.optimizer adamw8bit works on replicas; set it to adamw, or stage1.parallel to ddp")
        if self.vision_rate == self.merger_rate == self.language_rate == 0:
            raise UserError("every rate of stage1 is 0, so nothing would learn; set one above 0")
        if self.backbone != "tiny":
            return
        if self.vision_steps > 0 and self.grounding_weight <= 0:
            raise UserError("stage1.vision_steps needs the grounding head; set stage1.grounding_weight above 0")
        if self.lora.rank > 0 or self.vision_rate == 0:
            raise UserError(
                "a backbone made from scratch must learn as a whole: stage1.lora.rank and frozen vision are for"
                " published ones"
            )


def stage1(config: Stage1Config, context: StageContext) -> dict[str, Any]:
    """Train, and write `model/` (a Hugging Face folder) and `metrics.json` (curve, held-out questions before and
    after, mixture)."""
    from blm.pipelines import workers
    from blm.pipelines.finetune import encode, heldout, loop, results

    out, corpora = context.out, context.inputs["corpora"]
    start = _starting_point(config, context, corpora)
    if config.steps == 0:
        context.progress("no conversations are trained on (stage1.steps is 0)")
    elif config.backbone != "tiny" and config.learning_rate > HIGH_RATE and config.lora.rank == 0:
        context.progress(
            f"note: stage1.learning_rate {config.learning_rate:g} is for models made from scratch; published ones are"
            " usually fine-tuned at about 1e-5, and forget at more"
        )
    context.progress("tokenising the corpora")
    encoded = encode.encode_corpora(
        corpora,
        out / "encoded",
        start,
        cameras=context.world.cameras,
        max_length=config.max_length,
        workers=context.resources.num_cpus,
    )
    loop_config = {
        "stage": config,
        "start": start,
        "train": [str(path) for path in encoded["train"]],
        "test": [str(path) for path in encoded["test"]],
        "questions": heldout.choose_questions(corpora, config.eval_rows),
        "out": str(out),
        "seed": context.seed,
        "dtype": context.resources.dtype,
    }
    workers.fit(loop.train, loop_config, out, context.resources)
    metrics = read_json(depot.here(out / "metrics.json"))
    for point in metrics["curve"]:
        context.tracker.log_metrics({k: v for k, v in point.items() if k != "step"}, step=point["step"])
    for line in results.table(metrics["heldout"]):
        context.progress(line)
    accuracy = metrics["accuracy"]
    return {
        "parameters": metrics["parameters"],
        "final_loss": metrics["curve"][-1]["loss"] if config.steps else None,
        "accuracy_before": accuracy["before"]["all"],
        "accuracy_after": accuracy["after"]["all"],
        "samples_per_s": metrics["samples_per_s"],
        "skipped_steps": metrics["skipped_steps"],
    }


def _starting_point(config: Stage1Config, context: StageContext, corpora: Path) -> str:
    """Where training starts from: the published name as given, or a fresh tiny folder under `out`."""
    if config.backbone != "tiny":
        return config.backbone
    from blm.model.backbone import build_tiny, make_processor, save_backbone
    from blm.model.tokenizer import train_tokenizer
    from blm.pipelines.finetune.encode import training_texts

    folder = context.out / "start"
    if not (folder / "config.json").is_file():
        context.progress("training the tokenizer and making the backbone")
        tokenizer = train_tokenizer(training_texts(corpora / "train"), config.tiny.vocab_size)
        save_backbone(folder, build_tiny(config.tiny, tokenizer, context.seed), make_processor(tokenizer))
    depot.keep(folder)
    return str(folder)
