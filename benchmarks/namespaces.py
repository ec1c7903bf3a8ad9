"""Ranks as if on machines of their own: each in a network namespace behind a shaped link.

Needs root, `ip` and `tc` (token bucket filter). A link bounds what a rank sends; what is between
them bounds nothing, but may delay it (``delay_line``).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.delay_line import MTU, delay_line, open_tun
from recsys.train.horovodrun import rank_environment
from recsys.train.job import JOB_FILE, TrainingJob

_ROOT_LINK, _NET, _LINK = "rsroot0", "10.77.0", "link0"
_ROOT_ADDRESS = f"{_NET}.254"
_HOSTS = Path("/etc/netns")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _name(rank: int) -> str:
    return f"rsrank{rank}"


def _address(rank: int) -> str:
    return f"{_NET}.{rank + 1}"


@contextmanager
def linked_ranks(ranks: int, gbit: float | None, latency_ms: float = 0.0) -> Iterator[None]:
    """Namespaces for so many ranks; each sends ``gbit`` Gbit/s at most; None: unbound.

    Args:
        latency_ms: milliseconds until a packet arrives, in each direction.
    """
    try:
        for rank in range(ranks):
            _add_namespace(rank)
        with _delayed_links(ranks, latency_ms / 1e3) if latency_ms else _bridged_links(ranks):
            for rank in range(ranks):
                _bring_up(rank, gbit)
            yield
    finally:
        for rank in range(ranks):
            subprocess.run(["ip", "netns", "del", _name(rank)], capture_output=True)
            shutil.rmtree(_HOSTS / _name(rank), ignore_errors=True)


def _add_namespace(rank: int) -> None:
    _run("ip", "netns", "add", _name(rank))
    # Gloo takes the address that the machine's own name has; `ip netns exec` shows this file there.
    hosts = _HOSTS / _name(rank) / "hosts"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(f"127.0.0.1 localhost\n{_address(rank)} {socket.gethostname()}\n")


@contextmanager
def _bridged_links(ranks: int) -> Iterator[None]:
    """A bridge, and from it a pair of devices into each namespace."""
    outer = [f"rsveth{rank}" for rank in range(ranks)]
    try:
        _run("ip", "link", "add", _ROOT_LINK, "type", "bridge")
        for rank, link in enumerate(outer):
            peer = ["peer", "name", _LINK, "netns", _name(rank)]
            _run("ip", "link", "add", link, "type", "veth", *peer)
            _run("ip", "link", "set", link, "master", _ROOT_LINK, "up")
        _bring_up_root()
        yield
    finally:
        # One by one: those that vanish with their namespace do so later, and bar the next ones.
        for link in (*outer, _ROOT_LINK):
            subprocess.run(["ip", "link", "del", link], capture_output=True)


@contextmanager
def _delayed_links(ranks: int, seconds: float) -> Iterator[None]:
    ends = {_ROOT_ADDRESS: open_tun(_ROOT_LINK)}
    for rank in range(ranks):
        # A name of its own until it is in its namespace.
        outer = f"rstun{rank}"
        ends[_address(rank)] = open_tun(outer)
        _run("ip", "link", "set", outer, "netns", _name(rank), "name", _LINK, "mtu", str(MTU))
    with delay_line(ends, seconds):
        _run("ip", "link", "set", _ROOT_LINK, "mtu", str(MTU))
        _bring_up_root()
        yield


def _bring_up_root() -> None:
    _run("ip", "addr", "add", f"{_ROOT_ADDRESS}/24", "dev", _ROOT_LINK)
    _run("ip", "link", "set", _ROOT_LINK, "up")


def _bring_up(rank: int, gbit: float | None) -> None:
    inside = ["ip", "-n", _name(rank)]
    _run(*inside, "addr", "add", f"{_address(rank)}/24", "dev", _LINK)
    for device in ("lo", _LINK):
        _run(*inside, "link", "set", device, "up")
    if gbit is not None:
        # A bucket of two milliseconds: less, and the kernel's timer bounds the rate.
        burst = max(65_536, int(gbit * 1e9 / 8 * 0.002))
        shape = ["rate", f"{round(gbit * 1000)}mbit", "burst", str(burst), "latency", "100ms"]
        _run("tc", "-n", _name(rank), "qdisc", "add", "dev", _LINK, "root", "tbf", *shape)


def sent_bytes(ranks: int) -> list[int]:
    """Bytes that each rank's link has sent, headers included."""
    counter = f"/sys/class/net/{_LINK}/statistics/tx_bytes"
    return [int(_run("ip", "netns", "exec", _name(rank), "cat", counter)) for rank in range(ranks)]


def run_worker(job: TrainingJob, *options: str) -> None:
    """What horovodrun does for ``job``, with each rank in its namespace.

    Raises:
        RuntimeError: a rank failed; its output was shown.
    """
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
    from horovod.runner.http.http_server import RendezvousServer

    ranks, path = job.settings.train.ranks, Path(job.checkpoint_dir) / JOB_FILE
    job.save(path)
    slots = get_host_assignments(
        parse_hosts(",".join(f"{_address(rank)}:1" for rank in range(ranks))), ranks
    )
    server = RendezvousServer(0)
    port = server.start()
    server.init(slots)
    common = create_run_env_vars(_ROOT_ADDRESS, [_LINK], str(port))
    command = [sys.executable, "-m", "recsys.train.worker", str(path), *options]
    processes = []
    for slot in slots:
        environment = {**rank_environment(job), **common, **create_slot_env_vars(slot)}
        environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
        wrapped = ["ip", "netns", "exec", _name(slot.rank), *command]
        processes.append(_start(wrapped, environment))
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
        server.stop()
    if any(codes):
        raise RuntimeError(f"ranks ended with {codes}")


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env={**environment, "PYTHONWARNINGS": "ignore"}, stdout=subprocess.DEVNULL
    )
