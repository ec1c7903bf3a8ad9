"""Links with latency: what network namespaces send each other arrives so many seconds later.

Each namespace gets a TUN device; this process reads its packets and writes each into the device of
the address that it is for, when its time has come. (The kernel's own delay, ``netem``, is a module
that many machines lack.) It shares the machine's cores: on an AMD EPYC (Zen 4) 1 Gbit/s one way
took 13% of one, and 9 Gbit/s was the most that it carried.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address
from multiprocessing import get_context

MTU = 60_000
"""Bytes of a packet. Few and large ones, as a network card with segmentation offload takes them."""
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_VERSION_4 = 4
_DESTINATION = slice(16, 20)


def open_tun(name: str) -> int:
    """A new TUN device ``name``, of which the file that is returned is the other end.

    It stays so when the device is moved into a namespace, and vanishes with the file.
    """
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


@contextmanager
def delay_line(ends: Mapping[str, int], seconds: float) -> Iterator[None]:
    """Carry packets between devices, in a process of its own, while the block runs.

    Args:
        ends: an end's IPv4 address to its file, as ``open_tun`` has made it.
        seconds: that a packet takes from one end to another.
    """
    process = get_context("fork").Process(target=_carry, args=(dict(ends), seconds), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()
        for end in ends.values():
            os.close(end)


def _carry(ends: dict[str, int], seconds: float) -> None:
    by_address = {IPv4Address(address).packed: end for address, end in ends.items()}
    on_the_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        left = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        ready, _, _ = select.select(list(ends.values()), [], [], left)
        for end in ready:
            packet = os.read(end, MTU)
            target = by_address.get(packet[_DESTINATION])
            if packet[0] >> 4 == _VERSION_4 and target is not None:
                on_the_way.append((time.monotonic() + seconds, target, packet))
        now = time.monotonic()
        while on_the_way and on_the_way[0][0] <= now:
            _, target, packet = on_the_way.popleft()
            os.write(target, packet)
