"""Ports for processes that take a while before they listen.

A port that the kernel chooses (bind to 0) comes from the range that it also gives to outgoing connections, so somebody
may have it by the time a server has started. These lie below that range, and above the one of Ray's workers.
"""

import random
import socket
from contextlib import ExitStack, suppress

from blm.model.errors import UserError

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 32_000
TRIES = 1000
_chance = random.SystemRandom()  # whatever seeds a program has, two of them must not meet


def free_ports(count: int) -> list[int]:
    """Different ports of this machine on which nobody listens. UserError if none can be found."""
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(TRIES):
            if len(found) == count:
                return found
            port = _chance.randrange(LOWEST, HIGHEST)
            one = held.enter_context(socket.socket())
            with suppress(OSError):  # in use
                one.bind((HOST, port))
                found.append(port)
    raise UserError(f"no {count} free ports between {LOWEST} and {HIGHEST}; end some of the servers of this machine")


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
