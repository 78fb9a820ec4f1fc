"""Blocks the network in this Python process and waits for no disk: conftest.py imports it, and its subprocesses find it
on PYTHONPATH.

Only Unix sockets and the machine itself can be reached. An audit hook sees every socket of Python's, whoever opens it.
"""

import os
import socket
import sys


def _is_this_machine(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    return name in ("localhost", "::1", socket.gethostname()) or name.startswith("127.")


def _block(event: str, args: tuple) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if isinstance(address, tuple) and not _is_this_machine(address[0]):
            raise RuntimeError(f"tests have no network: {event} to {address[0]}")
    elif event == "socket.getaddrinfo" and not _is_this_machine(args[0]):
        raise RuntimeError(f"tests have no network: look-up of {args[0]}")


sys.addaudithook(_block)
#: What a test wrote is gone after it, mostly before it would have come to the disk.
os.fsync = lambda descriptor: None
