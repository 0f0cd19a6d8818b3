"""A run's configuration: presets, overrides, names, and mistakes in each."""

from pathlib import Path

import pytest

from blm.model.errors import UserError
from blm.pipelines.config import RunConfig, load_config, parse_override
from blm.pipelines.preset_files import presets


def test_overrides_win_over_the_preset_and_leave_the_rest_alone() -> None:
    plain = load_config("tiny")
    config = load_config("tiny", ["stage2.steps=7", "world.cells=[panda/PushCube]", "stage1.tiny.width=96"])
    assert config.stage2.steps == 7
    assert config.world.cells == ("panda/PushCube",)
    assert config.stage1.tiny.width == 96
    assert config.stage1.tiny.depth == plain.stage1.tiny.depth
    assert config.collect == plain.collect
    assert plain.stage2.steps != 7


def test_numbers_may_be_written_as_people_write_them() -> None:
    assert load_config("tiny", ["stage1.learning_rate=1e-4"]).stage1.learning_rate == 1e-4
    assert load_config("tiny", ["stage1.learning_rate=1"]).stage1.learning_rate == 1.0


def test_overrides_that_make_sense_only_together_may_come_in_any_order() -> None:
    config = load_config("tiny", ["resources.device=cuda", "resources.num_gpus=1"])
    assert config.resources.device == "cuda"


def test_a_run_is_named_after_its_preset_unless_told_otherwise(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("seed: 3\n")
    assert load_config(str(own)).name == "mine"
    assert load_config(str(own)).seed == 3
    assert load_config(str(own), name="other").name == "other"


def test_an_empty_preset_is_all_defaults(tmp_path: Path) -> None:
    own = tmp_path / "tiny.yaml"
    own.write_text("# nothing\n")
    assert load_config(str(own)) == RunConfig()


def test_a_preset_made_from_another_has_its_options_but_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("base: tiny\nname: first\nstage2: {steps: 7, policy: {width: 64}}\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nworld: {cells: [panda/PushCube]}\nstage2: {batch: 8}\n")
    tiny, config = load_config("tiny"), load_config(str(tmp_path / "second.yaml"))
    assert config.name == "second"
    assert (config.stage2.steps, config.stage2.batch, config.stage2.policy.width) == (7, 8, 64)
    assert config.stage2.policy.latents == tiny.stage2.policy.latents
    assert config.world.cells == ("panda/PushCube",)
    assert (config.world.cameras, config.collect, config.stage1) == (tiny.world.cameras, tiny.collect, tiny.stage1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"own": "base: tinny\n"}, "own.yaml: base: unknown preset 'tinny'; did you mean 'tiny'?"),
        ({"own": "base: below.yaml\n"}, "below.yaml does not exist; presets that ship: tiny"),
        ({"own": "base: 3\n"}, "own.yaml: base is 3; give the name of a preset"),
        ({"own": "base: b.yaml\n", "b": "base: own.yaml\n"}, "b.yaml: base leads back to "),
        ({"own": "base: b.yaml\n", "b": "stage2: {stepz: 3}\n"}, "b.yaml: unknown option 'stage2.stepz'"),
    ],
)
def test_a_mistake_in_a_base_names_the_file_it_stands_in(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "own.yaml"))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="plain folder name"):
        load_config("tiny", name=name)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("tinny", f"unknown preset 'tinny'; did you mean 'tiny'? (presets: {', '.join(presets())})"),
        ("no/such.yaml", f"preset file no/such.yaml does not exist; shipped presets: {', '.join(presets())}"),
    ],
)
def test_presets_that_do_not_exist_are_refused_with_what_does(preset: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(preset)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage1: {stepz: 3}", "mine.yaml: unknown option 'stage1.stepz'; did you mean 'steps'?"),
        ("stage1: {tiny: {widht: 3}}", "mine.yaml: unknown option 'stage1.tiny.widht'; did you mean 'width'?"),
        ("wrld: {}", "mine.yaml: unknown option 'wrld'; did you mean 'world'?"),
        (
            "stage2: {policy: {width: wide}}",
            "option 'stage2.policy.width': expected a whole number, got the text 'wide'",
        ),
        ("world: {cells: [panda/PushCub]}", "mine.yaml: "),
        ("- a\n- b\n", "mine.yaml: a preset is a YAML mapping"),
        ("a: [", "mine.yaml, line"),
    ],
)
def test_a_mistake_in_a_preset_names_the_file_and_the_option(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(own))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage1.stepz=3", "--set stage1.stepz=3: unknown option 'stage1.stepz'; did you mean 'steps'?"),
        ("stage1.steps=many", "--set stage1.steps=many: option 'stage1.steps': expected a whole number"),
        ("stage1.steps", "write it as --set stage.option=value"),
        ("=3", "write it as --set stage.option=value"),
        ("stage1=3", "option 'stage1': expected a group of options (Stage1Config), got 3"),
        ("stage1.steps=-1", "stage1.steps is -1"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config("tiny", ["stage2.steps=5", override])
    assert message in str(error.value)


def test_an_override_is_read_as_yaml() -> None:
    assert parse_override("a.b.c=[1, x]") == {"a": {"b": {"c": [1, "x"]}}}
    assert parse_override("a=no=yes") == {"a": "no=yes"}
