"""Who may ask: named keys, of which the server knows nothing but SHA-256 digests.

A key is 32 random bytes, so that its digest tells nothing about it: files and configurations with digests are no
secrets. The keys themselves come from a file or an environment variable, never from a command line, where every
process of the machine could read them.
"""

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from blm.model.errors import UserError
from blm.serve.guard.config import GuardConfig

logger = logging.getLogger("blm.serve.guard")

SHORTEST = 16
"""Characters of a key that somebody thought up; ours have 47."""
RELOAD_S = 1.0
"""How often the file is looked at, at most."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINE = re.compile(r"(\S+)\s+([0-9a-f]{64})")


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(file: Path) -> dict[str, str]:
    """Name -> digest of a key file. UserError, with the line, for what is none."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"key file {file} cannot be read ({error}); make one with `blm keys new NAME`") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or not _NAME.fullmatch(match[1]):
            raise UserError(f"{file} line {number} is not `NAME DIGEST`; add keys with `blm keys new NAME`")
        if match[1] in found:
            raise UserError(f"{file} line {number}: there is a key {match[1]!r} already; remove one of them")
        found[match[1]] = match[2]
    return found


def write_keys(file: Path, keys: Mapping[str, str]) -> None:
    """Write a key file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    waiting = file.with_name(f".{file.name}.{os.getpid()}")
    waiting.write_text("".join(f"{name} {known}\n" for name, known in keys.items()))
    waiting.replace(file)


def add_key(file: Path, name: str) -> str:
    """Make a key, write its digest to a file, and return it: it stands nowhere else. UserError for a name in use."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a key; use letters, digits, dots and dashes")
    keys = read_keys(file) if file.exists() else {}
    if name in keys:
        raise UserError(
            f"{file} has a key {name!r} already; give the new one another name, and remove the old one later"
        )
    key = f"blm-{secrets.token_urlsafe(32)}"
    write_keys(file, {**keys, name: digest(key)})
    return key


def remove_key(file: Path, name: str) -> None:
    """Take a key back; running servers follow within seconds. UserError if there is none of that name."""
    keys = read_keys(file)
    if name not in keys:
        raise UserError(f"{file} has no key {name!r}; it has {', '.join(keys) or 'none'}")
    write_keys(file, {other: known for other, known in keys.items() if other != name})


def resolve(config: GuardConfig, *, host: str, environment: Mapping[str, str] | None = None) -> GuardConfig:
    """The configuration with every key in it as a digest, so that no secret leaves this process.

    UserError where a server that others can reach would have no keys, and for keys that are unreadable or too short.
    """
    hashes = dict(config.key_hashes)
    given = (os.environ if environment is None else environment).get(config.key_variable, "")
    for place, entry in enumerate(part.strip() for part in given.split(",") if part.strip()):
        name, separator, key = entry.partition("=")
        if not separator:
            name, key = f"key-{place + 1}", entry
        if not _NAME.fullmatch(name) or len(key) < SHORTEST:
            raise UserError(
                f"{config.key_variable}: write NAME=KEY,NAME=KEY with keys of {SHORTEST} characters or more"
            )
        if name in hashes:
            raise UserError(f"{config.key_variable}: there is a key {name!r} already; give it another name")
        hashes[name] = digest(key)
    file = None if config.key_file is None else config.key_file.expanduser().resolve()
    known = {} if file is None else read_keys(file)
    if twice := known.keys() & hashes.keys():
        raise UserError(f"{file}: the key {min(twice)!r} is named elsewhere too; give it another name")
    if not is_loopback(host) and not known and not hashes:
        raise UserError(
            f"host {host} opens the server to the network, and it has no keys; make one with"
            " `blm keys new NAME --file keys.txt` and set guard.key_file: keys.txt, or set the environment variable"
            f" {config.key_variable}=NAME=KEY"
        )
    return replace(config, key_file=file, key_hashes=hashes)


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class KeyRing:
    """The keys that open a server, which may change while it runs."""

    def __init__(self, config: GuardConfig) -> None:
        self._fixed = dict(config.key_hashes)
        self._file = config.key_file
        self._read: dict[str, str] = {}
        self._seen: tuple[int, int] | None = None
        self._next_look_s = 0.0
        self.required = bool(self._fixed) or self._file is not None
        """Whether a key is asked for at all. A file that is emptied shuts everybody out."""

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None for a wrong one. Takes as long for every wrong key."""
        self._look()
        given, found = digest(key), None
        for name, known in (*self._fixed.items(), *self._read.items()):
            if hmac.compare_digest(given, known):
                found = name
        return found

    def _look(self) -> None:
        """Read the file again if it has changed. One that is lost or damaged leaves the keys as they were."""
        now = time.monotonic()
        if self._file is None or now < self._next_look_s:
            return
        self._next_look_s = now + RELOAD_S
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._read = read_keys(self._file)
                self._seen = seen
        except (OSError, UserError) as error:
            logger.error("key file %s is not read again, the keys before it hold: %s", self._file, error)
