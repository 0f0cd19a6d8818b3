"""YAML and overrides to typed configurations: what is accepted, and how a mistake is explained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from blm.model.errors import UserError
from blm.pipelines.schema import build, check, parse_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    hidden: int = 3
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise UserError("hidden must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    model: Model = field(default_factory=Model)
    device: Literal["cpu", "cuda"] = "cpu"
    names: tuple[str, ...] = ()
    limit: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    steps: int | tuple[int, ...] = 1
    folder: Path = Path(".")
    fast: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpora:
    models: tuple[Model, ...] = ()
    by_name: dict[str, Model] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    stage: Stage = field(default_factory=Stage)
    corpora: Corpora = field(default_factory=Corpora)


def read(text: str) -> Any:
    return build(Run, parse_yaml(text, where="a.yaml"), where="a.yaml")


def test_every_kind_of_value_arrives_as_its_type() -> None:
    stage = read(
        "stage: {model: {learning_rate: 1e-4, betas: [1, 0.5]}, names: [no, on], limit: null, weights: {a: 1},"
        " steps: [1, 2], folder: x/y, fast: true, device: cuda}"
    ).stage
    assert stage.model == Model(learning_rate=1e-4, betas=(1.0, 0.5))
    assert isinstance(stage.model.betas[0], float)
    assert stage.names == ("no", "on")
    assert stage.limit is None
    assert stage.weights == {"a": 1.0}
    assert stage.steps == (1, 2)
    assert stage.folder == Path("x/y")
    assert stage.fast is True
    assert stage.device == "cuda"


def test_lists_and_tables_of_groups_arrive_as_dataclasses() -> None:
    text = "corpora:\n  models:\n    - hidden: 5\n    - {learning_rate: 1}\n  by_name: {big: {hidden: 9}}\n"
    corpora = read(text).corpora
    assert corpora.models == (Model(hidden=5), Model(learning_rate=1.0))
    assert corpora.by_name == {"big": Model(hidden=9)}


def test_what_is_not_given_keeps_its_default() -> None:
    assert read("stage:\n  # nothing yet\n") == Run()
    assert read("stage: {model: {hidden: 5}}").stage.model.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "stage: {model: {hiden: 3}}",
            "a.yaml: unknown option 'stage.model.hiden'; did you mean 'hidden'? "
            "(options of stage.model: hidden, learning_rate, betas)",
        ),
        ("stge: {}", "a.yaml: unknown option 'stge'; did you mean 'stage'?"),
        (
            "stage: {model: {hidden: '3'}}",
            "a.yaml: option 'stage.model.hidden': expected a whole number, got the text '3'",
        ),
        ("stage: {model: {hidden: 3.0}}", "a.yaml: option 'stage.model.hidden': expected a whole number, got 3.0"),
        ("stage: {model: {hidden: true}}", "a.yaml: option 'stage.model.hidden': expected a whole number, got true"),
        ("stage: {model: {betas: [1]}}", "a.yaml: option 'stage.model.betas': expected 2 values, got [1]"),
        ("stage: {fast: 1}", "a.yaml: option 'stage.fast': expected true or false, got 1"),
        ("stage: {fast: yes}", "a.yaml: option 'stage.fast': expected true or false, got the text 'yes'"),
        ("stage: {names: a}", "a.yaml: option 'stage.names': expected a list in [brackets], got the text 'a'"),
        ("stage: {names: [a, 1]}", "a.yaml: option 'stage.names[1]': expected text, got 1"),
        ("stage: {limit: x}", "a.yaml: option 'stage.limit': expected a whole number, got the text 'x'"),
        ("stage: {steps: x}", "a.yaml: option 'stage.steps': expected a whole number or tuple, got the text 'x'"),
        ("stage: {weights: {a: b}}", "a.yaml: option 'stage.weights.a': expected a number, got the text 'b'"),
        (
            "stage: {device: cud}",
            "a.yaml: option 'stage.device': expected one of cpu, cuda, got the text 'cud'; did you mean 'cuda'?",
        ),
        ("stage: 3", "a.yaml: option 'stage': expected a group of options (Stage), got 3"),
        ("stage: {model: {hidden: 0}}", "a.yaml: stage.model: hidden must be 1 or more"),
        (
            "corpora: {models: [{}, {hiden: 3}]}",
            "a.yaml: unknown option 'corpora.models[1].hiden'; did you mean 'hidden'? "
            "(options of corpora.models[1]: hidden, learning_rate, betas)",
        ),
        (
            "corpora: {models: {hidden: 3}}",
            "a.yaml: option 'corpora.models': expected a list in [brackets], got a group of options",
        ),
        ("corpora: {models: [{hidden: 0}]}", "a.yaml: corpora.models[0]: hidden must be 1 or more"),
        ("stage:\n  limit: 1\n  limit: 2\n", "a.yaml: line 3: the option 'limit' stands twice"),
    ],
)
def test_a_mistake_is_explained_with_file_option_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(text)
    assert str(error.value) == message


def test_text_that_is_not_yaml_is_refused_with_its_line() -> None:
    with pytest.raises(UserError, match=r"a\.yaml, line 2: not valid YAML"):
        read("stage:\n  names: [a, ]]")


def test_parts_can_be_checked_without_the_checks_of_the_whole() -> None:
    check(Run, {"stage": {"model": {"hidden": 0}}}, where="--set")
    with pytest.raises(UserError, match="expected a whole number"):
        check(Run, {"stage": {"model": {"hidden": "a"}}}, where="--set")
