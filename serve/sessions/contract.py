"""The contract of a served policy: what it needs and gives, as JSON, and what a client may state of itself beforehand.

A client that states nothing is believed. One that states something else than what is served is refused with one line
that says how to mend it, before a robot moves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blm.model.description import PolicyDescription
from blm.model.embodiments import EMBODIMENTS
from blm.model.errors import UserError
from blm.model.layout import Layout, layout_to_json
from blm.serve.sessions.observations import Reader

RAD, OPENING = "rad", "opening_0_closed_1_open"
"""Units of our robots' numbers."""


class ContractError(UserError):
    """A client wants another model than this one."""


def contract_of(description: PolicyDescription) -> dict[str, Any]:
    """What `/v1/contract` answers: plain data."""
    return {
        "object": "contract",
        "policy": description.name,
        "identity": description.identity,
        "normalisation": description.normalisation,
        "cameras": list(description.cameras),
        "image_px": description.image_px,
        "chunk": description.chunk,
        "execute_steps": description.execute_steps,
        "robots": {layout.name: _robot(layout) for layout in description.layouts},
    }


def _robot(layout: Layout) -> dict[str, Any]:
    plain = layout_to_json(layout)
    return {
        "state": plain["state_names"],
        "state_units": units(layout, layout.state_names),
        "actions": plain["action_names"],
        "action_units": units(layout, layout.action_names),
        "relative_to": plain["relative_to"],
        "lower": plain["lower"],
        "upper": plain["upper"],
        "control_hz": plain["control_hz"],
    }


def units(layout: Layout, names: Sequence[str]) -> list[str] | None:
    """The unit of each number of one of our robots; None for others, which were trained in units of their own."""
    if layout.name not in EMBODIMENTS:
        return None
    return [*[RAD] * (len(names) - 1), OPENING]


# ---------------------------------------------------------------------------------------------------------- comparison


def check_contract(stated: Any, reader: Reader, *, robot: Any = None) -> None:
    """Compare what a client states with what is served; None states nothing.

    stated: a map with any of `embodiment`, `cameras`, `image_px`, `state` (names, or how many), `state_units`,
    `actions` (likewise), `action_units`, `control_hz`, `chunk`, `identity` and `normalisation`. robot: whose
    observations they are, if that is known besides. ContractError for the first that differs.
    """
    if stated is None:
        return
    if not isinstance(stated, Mapping):
        raise ContractError(f"'contract' must be a map; it may hold {', '.join(_CHECKS)}")
    for name in stated:
        if name not in _CHECKS:
            raise ContractError(f"'contract' has no {str(name)[:40]!r}; it may hold {', '.join(_CHECKS)}")
    try:
        layout = reader.layout(stated.get("embodiment") or robot)
    except UserError as error:
        if any(name in stated for name in _OF_ROBOT):
            raise ContractError(str(error)) from None
        layout = reader.description.layouts[0]  # of which nothing is stated
    for name, check in _CHECKS.items():
        if stated.get(name) is not None:
            check(stated[name], reader, layout)


def _cameras(value: Any, reader: Reader, layout: Layout) -> None:
    served = reader.description.cameras
    names = [reader.cameras.get(str(name), str(name)) for name in value] if isinstance(value, list | tuple) else []
    if missing := [camera for camera in served if camera not in names]:
        raise ContractError(
            f"you send cameras {_short(value)}; this policy looks through {list(served)}: add {missing[0]!r}"
        )


def _image_px(value: Any, reader: Reader, layout: Layout) -> None:
    px = reader.description.image_px
    if not reader.resize and reader.description.cameras and value != px:
        raise ContractError(f"you send pictures of {_short(value)} px; resize them to {px}x{px}")


def _names(what: str, of: Callable[[Layout], tuple[str, ...]]) -> Callable[[Any, Reader, Layout], None]:
    def check(value: Any, reader: Reader, layout: Layout) -> None:
        names = of(layout)
        if value != len(names) if isinstance(value, int) else not _same(value, names):
            raise ContractError(
                f"{what} is stated as {_short(value)}; {layout.name} has {len(names)} numbers, in this order:"
                f" {', '.join(names)}"
            )

    return check


def _units(what: str, of: Callable[[Layout], tuple[str, ...]]) -> Callable[[Any, Reader, Layout], None]:
    def check(value: Any, reader: Reader, layout: Layout) -> None:
        served = units(layout, of(layout))
        if served is not None and not _same(value, served):
            raise ContractError(f"{what} are stated as {_short(value)}; convert them: {layout.name} has {served}")

    return check


def _equal(name: str, of: Callable[[Reader, Layout], Any], mend: str) -> Callable[[Any, Reader, Layout], None]:
    def check(value: Any, reader: Reader, layout: Layout) -> None:
        served = of(reader, layout)
        if not isinstance(value, str | int) or value != served:
            raise ContractError(f"{name} is stated as {_short(value)}; this server has {served!r}: {mend}")

    return check


def _any(value: Any, reader: Reader, layout: Layout) -> None:
    """The robot has been looked up."""


def _same(value: Any, names: Sequence[str]) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value) and list(value) == list(names)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple | Mapping) and len(value) > 32:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


_OF_ROBOT = ("embodiment", "state", "state_units", "actions", "action_units", "control_hz")
_CHECKS: dict[str, Callable[[Any, Reader, Layout], None]] = {
    "embodiment": _any,
    "cameras": _cameras,
    "image_px": _image_px,
    "state": _names("state", lambda layout: layout.state_names),
    "state_units": _units("state_units", lambda layout: layout.state_names),
    "actions": _names("actions", lambda layout: layout.action_names),
    "action_units": _units("action_units", lambda layout: layout.action_names),
    "control_hz": _equal("control_hz", lambda _, layout: layout.control_hz, "run your loop at that rate"),
    "chunk": _equal("chunk", lambda reader, _: reader.description.chunk, "expect chunks of that length"),
    "identity": _equal(
        "identity",
        lambda reader, _: reader.description.identity,
        "serve the checkpoint that you want, or state this one",
    ),
    "normalisation": _equal(
        "normalisation", lambda reader, _: reader.description.normalisation, "serve the checkpoint with your statistics"
    ),
}
