"""Addresses of policies: `blm://host:port`, `openpi://host:port` and `vla-eval://host:port`, perhaps with a path."""

from pathlib import Path
from urllib.parse import urlsplit

from blm.actors.remote.blm import BlmClient
from blm.actors.remote.client import DEADLINE_S, RemoteClient
from blm.actors.remote.mapping import read_mapping
from blm.actors.remote.openpi import OpenpiClient
from blm.actors.remote.vla_eval import VlaEvalClient
from blm.model.errors import UserError

CLIENTS: dict[str, type[RemoteClient]] = {"blm": BlmClient, "openpi": OpenpiClient, "vla-eval": VlaEvalClient}
PORT = 8000


def is_remote(reference: str) -> bool:
    """Whether a policy's reference is an address, and not a folder."""
    return reference.partition("://")[0] in CLIENTS and "://" in reference


def open_remote(
    reference: str, mapping: Path | None = None, *, name: str = "", deadline_s: float = DEADLINE_S
) -> RemoteClient:
    """The policy at an address, which was reached.

    mapping: the file that says how to talk to a server that is not ours. name: in results; by default the reference.
    deadline_s: for each batch. UserError for a bad address or mapping, or if nobody answers there.
    """
    scheme, _, rest = reference.partition("://")
    try:
        parts = urlsplit(f"ws://{rest}")
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, PORT
    if scheme not in CLIENTS or not host:
        raise UserError(f"{reference!r} is no address of a policy; write {'://host:port, '.join(CLIENTS)}://host:port")
    if deadline_s <= 0:
        raise UserError(f"deadline_s is {deadline_s:g}; give a time above 0")
    place = parts.path or ("/blm" if scheme == "blm" else "/")
    address = f"[{host}]" if ":" in host else host
    client = CLIENTS[scheme](
        f"ws://{address}:{port}{place}",
        name=name or reference,
        mapping=None if mapping is None else read_mapping(mapping),
        deadline_s=deadline_s,
    )
    client.connect()
    return client
