"""The tests' own block of the network."""

import socket
import subprocess
import sys

import pytest

ADDRESS = "192.0.2.1"  # of a range kept for documentation; nobody answers there


def test_nothing_beyond_this_machine_can_be_reached():
    with socket.socket() as outside, pytest.raises(RuntimeError, match="no network"):
        outside.connect((ADDRESS, 80))
    with pytest.raises(RuntimeError, match="no network"):
        socket.getaddrinfo("example.org", 443)
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def test_the_processes_of_a_test_have_no_network_either():
    script = f"import socket; socket.socket().connect(('{ADDRESS}', 80))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1 and "RuntimeError: tests have no network" in result.stderr
