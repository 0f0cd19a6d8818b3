"""Predictions for the stages with models: Stage I, hidden states, Stage II, evaluation."""

import math

from blm.model.errors import UserError
from blm.pipelines.planning.clusters import Group
from blm.pipelines.planning.costs import Backbone
from blm.pipelines.planning.gpu import FORWARD, TRAIN, TRAIN_AGAIN, mllm_flops, policy_flops
from blm.pipelines.planning.phases import Phase, alone, spread
from blm.pipelines.planning.stage_plan import Setting, StagePlan

TINY_WIDTH = 192
SAMPLE = 5000.0
"""Frames that the probe looks at where no hidden states are kept."""
CHECKPOINT_BYTES = 12.0
"""A weight with AdamW's two averages, in float32."""


def stage1(setting: Setting) -> StagePlan:
    """Fine-tuning the multimodal model: tokens through it, forward and backward."""
    work, costs = setting.work, setting.costs
    data, train = setting.group("stage1", "data"), setting.group("stage1", "trainer")
    encoding, _ = spread(units=work.records, unit_s=costs.cpu.record_encoding_s, workers=data.cores)
    phases = [Phase(name="tokens", parts=encoding)]
    if setting.device == "cpu":
        _need_tiny(setting)
        cores = min(train.cores, work.config.stage1.batch)
        seconds = {
            "warm-up": work.vision_samples * costs.cpu.vision_sample_s / cores,
            "conversations": work.rows * work.row.tokens * costs.cpu.token_s / cores,
            "held-out questions": work.held_out * costs.cpu.held_out_s / cores,
        }
        phases += [Phase(name="start", start_s=costs.starts.trainers_s + costs.starts.tokenizer_s)]
        phases += [Phase(name=name, parts=alone(value, what="cores")) for name, value in seconds.items()]
        output = 25e6 + work.records * 2000
    else:
        model = _backbone(setting)
        phases += _gpu_training(setting, train, model)
        output = (4.0 + CHECKPOINT_BYTES) * (model.language + model.vision) + work.records * 2000
    return StagePlan(
        name="stage1",
        phases=[*phases, setting.manifest(100, output)],
        kinds=frozenset({data.kind, train.kind}),
        output_bytes=output,
        count=work.rows * work.row.tokens,
        unit="token",
    )


def _gpu_training(setting: Setting, group: Group, model: Backbone) -> list[Phase]:
    """Steps of Stage I on GPUs: parameters are gathered twice and gradients summed once a step, beside computing."""
    work, costs, config = setting.work, setting.costs, setting.work.config.stage1
    gpu = setting.gpu(group)
    flops = mllm_flops(model, work.row, per_weight=TRAIN_AGAIN if config.gradient_checkpointing else TRAIN)
    workers = min(group.gpus, config.batch)
    steps, rows = work.rows / config.batch, math.ceil(config.batch / workers)
    passes = max(1, math.ceil(rows * work.row.tokens / config.micro_tokens))
    weights = 2.0 * (model.language + model.vision)
    sent = weights * (2 * passes + 1) if config.parallel == "fsdp" else 2 * weights
    parts = {
        "GPUs" if group.gpus <= config.batch else "batch": steps * rows * gpu.training_s(flops),
        "network": steps * sent / (1e9 * costs.gpu.collective_gb_s),
        "kernel starts": steps * passes * costs.gpu.training_step_floor_s,
    }
    kept = work.rows * gpu.training_s(flops) / workers / config.checkpoint_every_s
    saving = alone(
        kept * CHECKPOINT_BYTES * (model.language + model.vision) / setting.cluster.bandwidth(group), what="storage"
    )
    held_out = work.held_out * 3 * gpu.inference_s(mllm_flops(model, work.row, per_weight=FORWARD)) / group.gpus
    return [
        Phase(name="conversations", start_s=costs.gpu.model_load_s, parts=parts),
        Phase(name="checkpoints", parts=saving),
        Phase(name="held-out questions", parts=alone(held_out, what="GPUs")),
    ]


def intents(setting: Setting) -> StagePlan:
    """The frozen model over every frame; robot after robot, workers are started anew for each."""
    work, costs, config = setting.work, setting.costs, setting.work.config.intents
    group = setting.group("intents", "model")
    robots = len({cell.robot for cell in work.config.world.parsed_cells()})
    steps = work.control_steps / work.demonstrations
    piece = config.episodes_per_shard * steps / work.config.render.stride
    width = TINY_WIDTH if setting.device == "cpu" else _backbone(setting).width
    frame_bytes = work.frame.tokens * width * (2 if config.store == "bf16" else 1)
    if setting.device == "cpu":
        _need_tiny(setting)
        unit_s, start_s = costs.cpu.intent_frame_s, costs.starts.models_s
        workers = min(group.cores, work.config.resources.simulators) if setting.cluster.local else group.cores
    else:
        model = _backbone(setting)
        flops = mllm_flops(model, work.frame, per_weight=FORWARD, share=config.layer / model.layers)
        unit_s, start_s, workers = setting.gpu(group).inference_s(flops), costs.gpu.model_load_s, group.gpus
    cached = config.cache == "disk"
    looked_at = work.intents if cached else min(work.intents, SAMPLE)
    parts, fill = spread(
        units=looked_at,
        unit_s=unit_s,
        workers=workers,
        piece=piece,
        piece_driver_s=costs.driver.piece_s,
        unit_bytes=frame_bytes if cached else 0.0,
        bytes_s=setting.cluster.bandwidth(group),
        worker="cores" if setting.device == "cpu" else "GPUs",
    )
    output = work.intents * frame_bytes if cached else 0.0
    return StagePlan(
        name="intents",
        phases=[
            Phase(name="frames", start_s=start_s * robots, parts=parts, fill_s=fill),
            Phase(name="index and probe", parts=alone(min(work.frames, looked_at) * costs.cpu.intent_check_s)),
            setting.manifest(3 * work.intents / piece if cached else 0, output),
        ],
        kinds=frozenset({group.kind}),
        output_bytes=output,
        count=looked_at,
        unit="intent",
    )


def stage2(setting: Setting) -> StagePlan:
    """The policy: windows through it, and their hidden states read from the storage."""
    work, costs, config = setting.work, setting.costs, setting.work.config.stage2
    group = setting.group("stage2", "trainer")
    preparing = Phase(name="windows", parts=alone(work.frames * costs.cpu.window_frame_s))
    if setting.device == "cpu":
        seconds = work.windows * costs.cpu.policy_sample_s / min(group.cores, config.batch)
        start_s, parts, output = costs.starts.policy_trainers_s, alone(seconds, what="cores"), 70e6
    else:
        start_s, output = costs.gpu.model_load_s, 4e9
        parts = _gpu_policy_training(setting, group)
    return StagePlan(
        name="stage2",
        phases=[
            preparing,
            Phase(name="training", start_s=start_s, parts=parts),
            setting.manifest(20 * work.models, output),
        ],
        kinds=frozenset({group.kind}),
        output_bytes=output,
        count=work.windows * config.draws,
        unit="policy sample",
    )


def _gpu_policy_training(setting: Setting, group: Group) -> dict[str, float]:
    """Steps of Stage II on GPUs: one model over all of them, or several on one each."""
    work, costs, config = setting.work, setting.costs, setting.work.config.stage2
    model, gpu, intents = _backbone(setting), setting.gpu(group), setting.work.config.intents
    sample_s = gpu.policy_s(policy_flops(config.policy, work.frame, model.width, draws=config.draws, per_weight=TRAIN))
    live = intents.cache == "none"
    if live:
        flops = mllm_flops(model, work.frame, per_weight=FORWARD, share=intents.layer / model.layers)
        sample_s += 2 * gpu.inference_s(flops)
    steps = work.windows / work.models / config.batch
    abreast = 1 if config.per == "all" else min(work.models, group.gpus)
    each = min(group.gpus, config.batch) if config.per == "all" else 1
    turns = math.ceil(work.models / abreast)
    parts = {
        "GPUs" if group.gpus <= config.batch or config.per != "all" else "batch": turns
        * steps
        * math.ceil(config.batch / each)
        * sample_s,
        "kernel starts": turns * steps * costs.gpu.training_step_floor_s,
    }
    if not live:
        looks = 2 if config.policy.future_weight else 1
        read = looks * work.frame.tokens * model.width * (2 if intents.store == "bf16" else 1)
        parts["storage"] = work.windows * read / setting.cluster.bandwidth(group)
    return parts


def evaluate(setting: Setting) -> StagePlan:
    """Rollouts: simulators wait for the policy and the policy for simulators; then questions in words."""
    work, costs, config = setting.work, setting.costs, setting.work.config
    sims, simulators = setting.simulators("evaluate")
    policy = setting.group("evaluate", "policy")
    physics_s = (work.rollout_steps + work.random_steps) * costs.cpu.rollout_step_s
    if setting.device == "cpu":
        seconds = (physics_s + work.looks * costs.cpu.rollout_look_s) / sims.cores
        parts = alone(seconds, what="cores")
        answers = Phase(
            name="questions",
            start_s=costs.starts.answers_s,
            parts=alone(work.answers * costs.cpu.answer_s / policy.cores, what="cores"),
        )
    else:
        model, gpu = _backbone(setting), setting.gpu(policy)
        flops = mllm_flops(model, work.frame, per_weight=FORWARD, share=config.intents.layer / model.layers)
        acting = policy_flops(config.stage2.policy, work.frame, model.width, draws=1, per_weight=FORWARD)
        drawing_s = work.looks * len(config.world.cameras) * costs.cpu.picture_s * work.size_ratio
        parts = {
            "simulators": (physics_s + drawing_s) / simulators,
            "policy": work.looks * (gpu.inference_s(flops) + config.evaluate.euler_steps * gpu.policy_s(acting)),
        }
        words = work.row.tokens + config.evaluate.digital.max_new_tokens
        said = gpu.inference_s(FORWARD * model.language * words) * work.answers
        answers = Phase(name="questions", start_s=costs.gpu.model_load_s, parts=alone(said, what="GPUs"))
    start_s = costs.starts.rollouts_s + (costs.gpu.model_load_s if setting.device == "cuda" else 0.0)
    return StagePlan(
        name="evaluate",
        phases=[Phase(name="rollouts", start_s=start_s, parts=parts), answers, setting.manifest(work.rollouts, 0.0)],
        kinds=frozenset({sims.kind, policy.kind}),
        output_bytes=work.rollouts * 2e4,
        count=work.rollouts,
        unit="rollout",
    )


def _backbone(setting: Setting) -> Backbone:
    return setting.costs.gpu.backbone(setting.work.config.stage1.backbone)


def _need_tiny(setting: Setting) -> None:
    """UserError for a published backbone on CPUs, of which nothing was measured."""
    name = setting.work.config.stage1.backbone
    if name != "tiny":
        raise UserError(
            f"nothing is known of what {name} costs without GPUs; give --nodes with gpu-train=COUNT (and device cuda), "
            "or another --preset"
        )
