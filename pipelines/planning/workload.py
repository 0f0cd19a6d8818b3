"""How much work a configuration asks for, counted in the units of the costs; `scale` times as much where data grows."""

from dataclasses import dataclass

from blm.pipelines.config import RunConfig
from blm.pipelines.planning.costs import Costs
from blm.pipelines.planning.gpu import Sight

PLAIN_TRAIN, PLAIN_TEST = 328, 356
"""Conversations of plain language that ship with blm: for training (times `language_copies`), and for testing."""
HIDDEN_AGAIN = 0.58
"""Share of the questions in words that are asked again without their picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Units by stage."""

    config: RunConfig
    scale: float
    demonstrations: float
    control_steps: float
    """Of all demonstrations."""
    frames: float
    """Of the dataset, all variants."""
    pictures: float
    """Of all frames and cameras."""
    scenes: float
    clips: float
    """Questions about demonstrations."""
    records: float
    """Conversations, training and testing."""
    held_out: float
    vision_samples: float
    rows: float
    """Conversations that Stage I trains on, every time anew."""
    row: Sight
    """One of them."""
    frame: Sight
    """What the frozen model sees of a frame."""
    intents: float
    """Frames through the frozen model, with every phrasing and every changed copy."""
    models: int
    """That Stage II trains."""
    windows: float
    """That Stage II trains on, of all models and every time anew, draws not counted."""
    rollouts: float
    rollout_steps: float
    looks: float
    random_steps: float
    answers: float

    @property
    def size_ratio(self) -> float:
        """Pixels of a picture, in those of one of 112 x 112."""
        return (self.config.world.image_px / 112) ** 2


def count(config: RunConfig, costs: Costs, *, scale: float = 1.0) -> Workload:
    """The work of a configuration. With a scale: so many times the demonstrations, scenes, rows and windows trained on,
    and rollouts; batches, models and held-out questions stay.
    """
    shares, cameras = costs.workload, len(config.world.cameras)
    steps = {cell.name: shares.steps(cell.name) for cell in config.world.parsed_cells()}
    each = config.collect.episodes_per_cell * scale
    control_steps = each * sum(steps.values())
    each_frames = len(steps) * each / 2 + control_steps / config.render.stride  # the last state is a frame too
    frames = each_frames * config.render.variants
    scenes = (config.corpora.scenes + config.corpora.test_scenes) * scale
    clips = len(steps) * each * config.corpora.episode_questions
    plain = PLAIN_TRAIN * config.corpora.language_copies + (PLAIN_TEST if config.corpora.language_copies else 0)
    stage1, stage2, evaluate = config.stage1, config.stage2, config.evaluate
    robots = {cell.robot for cell in config.world.parsed_cells()}
    models = {"all": 1, "robot": len(robots), "cell": len(steps)}[stage2.per]
    rollout_steps = sum(steps.values()) * shares.rollout_steps_ratio * evaluate.episodes_per_cell * scale
    digital = evaluate.digital
    with_clips = clips / max(clips + scenes, 1e-9)
    px = config.world.image_px
    return Workload(
        config=config,
        scale=scale,
        demonstrations=each * len(steps),
        control_steps=control_steps,
        frames=frames,
        pictures=frames * cameras,
        scenes=scenes,
        clips=clips,
        records=scenes * shares.scenes_kept + clips + plain,
        held_out=stage1.eval_rows,
        vision_samples=stage1.vision_steps * stage1.vision_batch * scale if stage1.backbone == "tiny" else 0.0,
        rows=stage1.steps * stage1.batch * scale,
        row=Sight(
            pictures=cameras + with_clips * (costs.sizes.episode_clip_pictures - cameras),
            image_px=px,
            text_tokens=costs.sizes.text_tokens_record,
        ),
        frame=Sight(pictures=cameras, image_px=px, text_tokens=config.intents.max_text_tokens),
        intents=frames * config.intents.phrasings * (1 + config.intents.augmentations),
        models=models,
        windows=stage2.steps * stage2.batch * models * scale,
        rollouts=evaluate.episodes_per_cell * len(steps) * scale,
        rollout_steps=rollout_steps,
        looks=rollout_steps / evaluate.execution.execute_steps,
        random_steps=evaluate.random_episodes_per_cell * len(steps) * shares.random_rollout_steps * scale,
        answers=digital.questions * (1 + HIDDEN_AGAIN * digital.without_picture),
    )
