"""Links between network namespaces: what is sent arrives, and not before its time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.namespaces import linked_ranks, sent_bytes

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))),
    reason="network namespaces need root and iproute2",
)
BYTES = 3_000_000

ECHO = f"""
import socket
server = socket.create_server(("0.0.0.0", 9000))
print("ready", flush=True)
link, _ = server.accept()
left = {BYTES}
while left:
    left -= len(link.recv(65536))
link.sendall(b"all")
"""
SEND = f"""
import socket, time
started = time.monotonic()
link = socket.create_connection(("10.77.0.2", 9000))
connected = time.monotonic()
link.sendall(bytes({BYTES}))
assert link.recv(3) == b"all"
print(connected - started, time.monotonic() - connected)
"""


def in_rank(rank: int, code: str) -> list[str]:
    return ["ip", "netns", "exec", f"rsrank{rank}", sys.executable, "-c", code]


@pytest.mark.parametrize("latency_ms", [0.0, 20.0])
def test_what_a_rank_sends_arrives_after_the_latency(latency_ms: float) -> None:
    with linked_ranks(2, gbit=1.0, latency_ms=latency_ms):
        server = subprocess.Popen(in_rank(1, ECHO), stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        output = subprocess.run(in_rank(0, SEND), check=True, capture_output=True, text=True).stdout
        assert server.wait() == 0
        sent = sent_bytes(2)
    for seconds in map(float, output.split()):  # to connect, and to send and be answered
        assert seconds >= 2 * latency_ms / 1e3
    assert sent[0] > BYTES
    assert sent[1] < BYTES
    assert not Path("/run/netns/rsrank0").exists()
