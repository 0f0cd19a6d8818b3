"""Ports for servers that take a while to start."""

import socket
from pathlib import Path

import pytest

from blm.cluster import ports
from blm.model.errors import UserError


def test_ports_are_free_different_and_out_of_reach_of_outgoing_connections() -> None:
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(found) < lowest_outgoing
    for port in found:
        socket.create_server((ports.HOST, port)).close()


def test_a_port_that_is_taken_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = ports.free_port()
    monkeypatch.setattr(ports, "LOWEST", taken)
    monkeypatch.setattr(ports, "HIGHEST", taken + 1)
    with socket.create_server((ports.HOST, taken)), pytest.raises(UserError, match="no 1 free ports"):
        ports.free_port()
