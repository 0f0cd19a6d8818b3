"""Predictions for the stages that make data: demonstrations, pictures, corpora."""

from blm.pipelines.planning.phases import Phase, alone, spread
from blm.pipelines.planning.stage_plan import Setting, StagePlan


def collect(setting: Setting) -> StagePlan:
    """Demonstrations: simulators that are given blocks of seeds."""
    work, costs = setting.work, setting.costs
    group, workers = setting.simulators("collect")
    block = work.config.collect.seeds_per_item
    steps = work.control_steps / work.demonstrations
    parts, fill = spread(
        units=work.demonstrations,
        unit_s=steps * costs.cpu.control_step_s,
        workers=workers,
        piece=block,
        piece_driver_s=costs.driver.piece_s,
        unit_bytes=costs.sizes.demonstration_bytes,
        bytes_s=setting.cluster.bandwidth(group),
        worker="simulators",
    )
    output = work.demonstrations * costs.sizes.demonstration_bytes
    return StagePlan(
        name="collect",
        phases=[
            Phase(name="demonstrations", start_s=costs.starts.simulators_s, parts=parts, fill_s=fill),
            setting.manifest(2 * work.demonstrations / block, output),
        ],
        kinds=frozenset({group.kind}),
        output_bytes=output,
        count=work.demonstrations,
        unit="demonstration",
    )


def render(setting: Setting) -> StagePlan:
    """Pictures: simulators draw, then the driver puts the datasets together, episode by episode."""
    work, costs = setting.work, setting.costs
    group, workers = setting.simulators("render")
    pixels = work.config.world.image_px**2
    official = work.config.world.geometry == "official"
    picture_bytes = pixels * (costs.sizes.official_bytes_px if official else costs.sizes.picture_bytes_px)
    output = work.pictures * picture_bytes
    files = work.demonstrations / work.config.collect.seeds_per_item
    parts, fill = spread(
        units=work.pictures,
        unit_s=costs.cpu.picture_s * work.size_ratio,
        workers=workers,
        piece=work.pictures / files,
        piece_driver_s=costs.driver.piece_s,
        unit_bytes=picture_bytes,
        bytes_s=setting.cluster.bandwidth(group),
        worker="simulators",
    )
    per_byte_s = costs.cpu.picture_assembly_s / (112**2 * costs.sizes.picture_bytes_px)
    assembly = alone(output * per_byte_s) | alone(2 * output / setting.cluster.driver_bandwidth, what="storage")
    return StagePlan(
        name="render",
        phases=[
            Phase(name="pictures", start_s=costs.starts.renderers_s, parts=parts, fill_s=fill),
            Phase(name="dataset", parts=assembly),
            setting.manifest(output / 1e8, output),
        ],
        kinds=frozenset({group.kind}),
        output_bytes=output,
        count=work.pictures,
        unit="picture",
    )


def corpora(setting: Setting) -> StagePlan:
    """Scenes and questions: simulators draw, the driver chooses what is asked."""
    work, costs = setting.work, setting.costs
    group, workers = setting.simulators("corpora")
    ratio = work.size_ratio
    scenes, fill = spread(
        units=work.scenes,
        unit_s=costs.cpu.scene_s * ratio,
        workers=workers,
        piece=work.config.corpora.scenes_per_file,
        piece_driver_s=costs.driver.piece_s,
        unit_bytes=costs.sizes.scene_bytes * ratio,
        bytes_s=setting.cluster.bandwidth(group),
        worker="simulators",
    )
    clip = costs.sizes.episode_clip_pictures / len(work.config.world.cameras)
    clips, clip_fill = spread(
        units=work.clips,
        unit_s=costs.cpu.scene_s * ratio * clip,
        workers=workers,
        piece=work.config.corpora.scenes_per_file,
        piece_driver_s=costs.driver.piece_s,
        worker="simulators",
    )
    output = (work.scenes + clip * work.clips) * costs.sizes.scene_bytes * ratio
    return StagePlan(
        name="corpora",
        phases=[
            Phase(name="scenes", start_s=costs.starts.scenes_s, parts=scenes, fill_s=fill),
            Phase(name="clips", parts=clips, fill_s=clip_fill),
            Phase(name="choosing questions", parts=alone((work.scenes + work.clips) * costs.cpu.scene_choice_s)),
            setting.manifest((work.scenes + work.clips) / work.config.corpora.scenes_per_file, output),
        ],
        kinds=frozenset({group.kind}),
        output_bytes=output,
        count=work.records,
        unit="record",
    )
