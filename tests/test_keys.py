"""Keys: made once, known by their digests alone, asked for wherever others can reach, followed while a server runs."""

import argparse
import os
from pathlib import Path

import pytest

from blm.model.errors import UserError
from blm.pipelines import keys as command
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.keys import KeyRing, add_key, digest, is_loopback, read_keys, remove_key, resolve


def test_a_key_is_told_once_and_kept_as_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    first, second = add_key(file, "robot"), add_key(file, "desk")
    assert first != second
    assert len(first) >= 47
    assert first not in file.read_text()
    assert read_keys(file) == {"robot": digest(first), "desk": digest(second)}
    assert [path.name for path in tmp_path.iterdir()] == ["keys.txt"]
    with pytest.raises(UserError, match="already"):
        add_key(file, "robot")
    with pytest.raises(UserError, match="cannot name a key"):
        add_key(file, "two words")
    remove_key(file, "robot")
    assert list(read_keys(file)) == ["desk"]
    with pytest.raises(UserError, match="no key 'robot'"):
        remove_key(file, "robot")


@pytest.mark.parametrize(
    "text", ["robot", "robot plain-text-key", f"robot {'a' * 64}\nrobot {'b' * 64}", f"two words {'a' * 64}"]
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"# a comment\n\n{text}\n")
    with pytest.raises(UserError, match=r"keys\.txt line [34]"):
        read_keys(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "robot.example", ""])
def test_off_loopback_a_server_without_keys_does_not_start(host: str) -> None:
    with pytest.raises(UserError, match="blm keys new"):
        resolve(GuardConfig(), host=host, environment={})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_on_loopback_it_does(host: str) -> None:
    assert is_loopback(host)
    assert resolve(GuardConfig(), host=host, environment={}).key_hashes == {}


def test_keys_of_the_environment_go_on_as_digests() -> None:
    config = resolve(
        GuardConfig(), host="0.0.0.0", environment={"BLM_API_KEYS": "robot=0123456789abcdef, fedcba9876543210"}
    )
    assert config.key_hashes == {"robot": digest("0123456789abcdef"), "key-2": digest("fedcba9876543210")}
    assert "0123456789abcdef" not in repr(config)
    for bad in ("robot=short", "two words=0123456789abcdef", "a=0123456789abcdef,a=0123456789abcdef"):
        with pytest.raises(UserError, match="BLM_API_KEYS"):
            resolve(GuardConfig(), host="127.0.0.1", environment={"BLM_API_KEYS": bad})


def test_an_empty_file_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("")
    with pytest.raises(UserError, match="no keys"):
        resolve(GuardConfig(key_file=file), host="0.0.0.0", environment={})
    assert KeyRing(GuardConfig(key_file=file)).required
    with pytest.raises(UserError, match="cannot be read"):
        resolve(GuardConfig(key_file=tmp_path / "none.txt"), host="127.0.0.1", environment={})


def test_a_running_server_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blm.serve.guard.keys.RELOAD_S", 0.0)
    file = tmp_path / "keys.txt"
    key = add_key(file, "robot")
    ring = KeyRing(resolve(GuardConfig(key_file=file), host="0.0.0.0", environment={}))
    assert ring.name_of(key) == "robot"
    newer = add_key(file, "robot-2")
    assert ring.name_of(newer) == "robot-2"
    remove_key(file, "robot")
    assert ring.name_of(key) is None
    file.write_text("damaged")
    os.utime(file, (1, 1))
    assert ring.name_of(newer) == "robot-2", "a damaged file must not shut everybody out"
    file.unlink()
    assert ring.name_of(newer) == "robot-2"
    assert ring.name_of("") is None


def test_the_command_makes_lists_and_takes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    place = ["--file", str(tmp_path / "keys.txt")]
    assert command.main("keys", parser.parse_args(["new", "robot", *place])) == 0
    key = capsys.readouterr().out.strip()
    assert read_keys(tmp_path / "keys.txt") == {"robot": digest(key)}
    command.main("keys", parser.parse_args(["list", *place]))
    assert capsys.readouterr().out == "robot\n"
    command.main("keys", parser.parse_args(["remove", "robot", *place]))
    assert read_keys(tmp_path / "keys.txt") == {}
    with pytest.raises(UserError, match="whose key"):
        command.main("keys", parser.parse_args(["new", *place]))
