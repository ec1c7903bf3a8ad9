"""How the stages of a replica reach each other: a process group of torch, beside Horovod."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore  # of torch.distributed, for mypy

from recsys.train.communication import Communicator
from recsys.train.horovod_communication import is_lost_connection
from recsys.train.pipeline.grid import Grid

_DRIVER = "HOROVOD_GLOO_RENDEZVOUS_ADDR"
_INTERFACE = "HOROVOD_GLOO_IFACE"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class LostStageError(RuntimeError):
    """The connection to a neighbouring stage is gone."""


class Link:
    """The process group of this rank's replica: one rank a stage, in their order.

    Rank 0 opens the store at which the groups meet and tells its address through Horovod. A rank
    that hangs is found by the watchdog, which knows torch's waits as well; the group's own time-out
    is twice as long, should that fail.

    Args:
        communicator: of all ranks, which make their links together.
        grid: of the same.
        device: of the states: gloo carries those of a CPU, nccl those of a GPU.
        stall_seconds: after which ranks give up.
    """

    def __init__(
        self, communicator: Communicator, grid: Grid, device: torch.device, stall_seconds: float
    ) -> None:
        self._grid = grid
        timeout = timedelta(seconds=2 * stall_seconds)
        for name in _INTERFACES:  # the network that Horovod's launcher has found
            if _INTERFACE in os.environ:
                os.environ.setdefault(name, os.environ[_INTERFACE])
        with self.watched():
            first = communicator.rank == 0
            store = _open_store(timeout) if first else None
            host, port = communicator.broadcast_object(store and (store.host, store.port))
            if store is None:
                store = TCPStore(host, port, wait_for_workers=False, timeout=timeout)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(f"replica-{grid.replica}", store),
                rank=grid.stage,
                world_size=grid.stages,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block states may travel.

        Raises:
            LostStageError: a neighbour is gone.
        """
        try:
            yield
        except RuntimeError as error:  # of gloo there is no class of its own
            of_link = isinstance(error, dist.DistError) or "gloo" in str(error)
            if is_lost_connection(error) or not of_link:  # Horovod's: any rank may be gone
                raise
            ranks = " or ".join(map(str, self._grid.neighbors))
            raise LostStageError(f"the connection to rank {ranks} is lost: {error}") from error

    def close(self) -> None:
        """Leave the group; another one can be made."""
        dist.destroy_process_group()


def _open_store(timeout: timedelta) -> TCPStore:
    """On a port that is free, and on the network of the other ranks alone."""
    host = _find_own_address()
    listener = socket.create_server((host, 0))
    return TCPStore(
        host,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timeout,
        master_listen_fd=listener.detach(),
    )


def _find_own_address() -> str:
    """The address from which this machine reaches the launcher, as all others do."""
    launcher = os.environ.get(_DRIVER) or socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launcher, 1))  # sends nothing
        return str(probe.getsockname()[0])
