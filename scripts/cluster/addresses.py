"""Addresses on this machine, and whether somebody answers there."""

from __future__ import annotations

import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
_START_SECONDS = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def greets(port: int, question: bytes, answer: bytes) -> bool:
    with socket.create_connection((HOST, port), timeout=5) as link:
        link.sendall(question)
        return answer in link.recv(64)


def wait(ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    sys.exit(f"{log.stem} does not answer after {_START_SECONDS} s; {log} ends with\n{tail}")
