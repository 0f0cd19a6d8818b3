"""Plain values from YAML or the command line -> typed, frozen dataclasses, with errors that say where and what.

Strict on purpose: an option that does not exist, or "2" where a number belongs, must end a run before it starts and
not after an hour. YAML is read by the 1.2 rules (`1e-3` is a number; `no` and `on` are words), and a key may stand
only once.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from blm.model.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What values were read from, and how far to go with them."""

    where: str
    """A file or a command-line option, for messages."""
    names_and_kinds_only: bool = False
    """Leave out the checks that a configuration class makes of its values as a whole."""


def build(cls: type, value: Any, *, where: str) -> Any:
    """A dataclass instance from nested mappings; options not given keep their defaults.

    where: what the values were read from. UserError names it, the dotted option, and what was expected.
    """
    return _build(cls, value, source=Source(where=where), path="")


def check(cls: type, value: Any, *, where: str) -> None:
    """UserError unless every option in nested mappings exists and has a value of its kind.

    For parts of a configuration, which need not make sense alone.
    """
    _build(cls, value, source=Source(where=where, names_and_kinds_only=True), path="")


def _build(cls: type, value: Any, *, source: Source, path: str) -> Any:
    if value is None:  # a group that a preset opens and leaves empty
        value = {}
    if not isinstance(value, Mapping):
        _refuse(source, path, f"expected a group of options ({cls.__name__})", value)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    given: dict[str, Any] = {}
    for key, item in value.items():
        if key not in names:
            group = f" (options of {path}: {', '.join(names)})" if path else ""
            raise UserError(f"{source.where}: unknown option {dotted(path, key)!r}; {nearest(str(key), names)}{group}")
        given[key] = _convert(hints[key], item, source=source, path=dotted(path, key))
    if source.names_and_kinds_only:
        return None
    try:
        return cls(**given)
    except (UserError, ValueError) as error:  # raised by __post_init__, which knows no file
        prefix = "" if not path or str(error).startswith(path) else f"{path}: "
        raise UserError(f"{source.where}: {prefix}{error}") from error


def _convert(kind: Any, value: Any, *, source: Source, path: str) -> Any:
    """One value as the type a field declares. UserError if it is of another kind."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, source=source, path=path)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, source=source, path=path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            choices = ", ".join(str(choice) for choice in args)
            hint = difflib.get_close_matches(str(value), [str(choice) for choice in args], n=1)
            _refuse(source, path, f"expected one of {choices}", value, f"; did you mean {hint[0]!r}?" if hint else "")
        return value
    if origin in (tuple, list):
        return _convert_sequence(origin, args, value, source=source, path=path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            _refuse(source, path, "expected a mapping", value)
        return {
            _convert(args[0], k, source=source, path=path): _convert(args[1], v, source=source, path=dotted(path, k))
            for k, v in value.items()
        }
    return _convert_scalar(kind, value, source=source, path=path)


def _convert_scalar(kind: Any, value: Any, *, source: Source, path: str) -> Any:
    """int, float (an int will do), bool, str, Path or None; nothing is guessed from text."""
    if kind is Any:
        return value
    if kind is types.NoneType:
        if value is not None:
            _refuse(source, path, "expected null", value)
        return None
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        _refuse(source, path, f"expected {_kind_name(kind)}", value)
    return value


def _convert_union(kinds: tuple[Any, ...], value: Any, *, source: Source, path: str) -> Any:
    """The first kind of a union that takes the value; null only where the union has it."""
    if value is None and types.NoneType in kinds:
        return None
    real = [kind for kind in kinds if kind is not types.NoneType]
    if len(real) == 1:  # Optional: the one kind's own message is the best one
        return _convert(real[0], value, source=source, path=path)
    for kind in real:
        try:
            return _convert(kind, value, source=source, path=path)
        except UserError:
            continue
    return _refuse(source, path, f"expected {' or '.join(_kind_name(kind) for kind in kinds)}", value)


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, *, source: Source, path: str) -> Any:
    """tuple[X, ...], tuple[X, Y] or list[X] from a YAML sequence."""
    if not isinstance(value, (list, tuple)):
        _refuse(source, path, "expected a list in [brackets]", value)
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        kinds = [args[0]] * len(value)
    else:
        kinds = list(args)
        if len(kinds) != len(value):
            _refuse(source, path, f"expected {len(kinds)} values", value)
    return origin(
        _convert(kind, item, source=source, path=f"{path}[{i}]")
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _kind_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return names[kind] if kind in names else str(getattr(kind, "__name__", kind))


def _refuse(source: Source, path: str, expected: str, got: Any, more: str = "") -> typing.NoReturn:
    if got is None:
        shown = "nothing"
    elif isinstance(got, str):
        shown = f"the text {got!r}"
    elif isinstance(got, bool):
        shown = "true" if got else "false"
    elif isinstance(got, Mapping):
        shown = "a group of options"
    else:
        shown = repr(got)
    raise UserError(f"{source.where}: option {path or '(top level)'!r}: {expected}, got {shown}{more}")


def dotted(path: str, key: object) -> str:
    """The dotted name of an option under a path."""
    return f"{path}.{key}" if path else str(key)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the known names where none is near."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(known)}"


# -------------------------------------------------------------------------------------------------------- YAML 1.2


class _Loader(yaml.SafeLoader):
    """YAML's JSON-compatible schema, plus a refusal of keys that stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise UserError(f"line {key_node.start_mark.line + 1}: the option {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(str(self.construct_scalar(node)))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(str(self.construct_scalar(node)).replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {}  # SafeLoader's are YAML 1.1
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", "n~"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+0123456789."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str, *, where: str) -> Any:
    """The value a YAML text stands for. UserError naming `where` and the line if it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML ({problem})") from error
