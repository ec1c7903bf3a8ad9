"""The services of a folder: their processes, addresses and secrets, and how they are ended."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from addresses import HOST

STATE = "services.json"
PASSWORD = "password"
Finish = Callable[[], dict[str, str]]
"""Waits until a started service answers; returns its addresses by name."""
_STOP_SECONDS = 20


class Services:
    """The services of one folder: what runs, where, and how it is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses: dict[str, str] = {}
        self.processes: list[dict[str, int]] = []

    def start(self, starters: Mapping[str, Callable[[Services], Finish]]) -> None:
        """Start services and wait until each answers; all are ended if one does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for finish in [start(self) for start in starters.values()]:
                self.addresses |= finish()
        except BaseException:
            self.stop()
            raise
        self._save()

    def stop(self) -> None:
        """End what runs, the last started first, politely and then by force."""
        for process in reversed(self.processes):
            _end(process)
        (self.folder / STATE).unlink(missing_ok=True)

    def run(
        self,
        name: str,
        command: list[str],
        variables: dict[str, str] | None = None,
        user: str | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> Path:
        """Start a process in a session of its own; returns its log.

        Args:
            user: whom it runs as, if not as us.
            end: the signal on which it ends in good order.
        """
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **(variables or {})},
                **as_user(user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append({"pid": process.pid, "born": _born(process.pid), "end": int(end)})
        self._save()
        return log

    def password(self) -> str:
        """The password of this folder's stores."""
        path = self.folder / PASSWORD
        if not path.exists():
            write_secret(path, secrets.token_hex(16))
        return path.read_text(encoding="utf-8")

    def certificate(self) -> tuple[Path, Path]:
        """A certificate for this host, which signs itself, and its key."""
        certificate, key = self.folder / "server.crt", self.folder / "server.key"
        if not certificate.exists():
            name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}"]
            make = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", *name]
            files = ["-keyout", str(key), "-out", str(certificate)]
            subprocess.run([*make, *files], check=True, stderr=subprocess.DEVNULL)
        return certificate, key

    def _save(self) -> None:
        state = {"addresses": self.addresses, "processes": self.processes}
        (self.folder / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Services:
        services = cls(folder)
        if (folder / STATE).exists():
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            services.addresses, services.processes = state["addresses"], state["processes"]
        return services


def as_user(name: str | None) -> dict[str, Any]:
    """Arguments of subprocess for a process of another user; none for our own."""
    return {} if name is None else {"user": name, "group": name, "extra_groups": []}


def program(name: str) -> str:
    """On PATH, or where Debian puts PostgreSQL's."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    folders = [os.environ["PATH"], *(str(path) for path in reversed(debian))]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        sys.exit(f"{name} is not installed; run 'make stores-setup'")
    return found


def write_secret(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _born(pid: int) -> int:
    """When the process began, in the kernel's ticks: its id may be another's later. 0: it ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _end(process: dict[str, int]) -> None:
    pid, born = process["pid"], process["born"]
    deadline = time.monotonic() + _STOP_SECONDS
    number = process.get("end", signal.SIGTERM)
    while _runs(pid, born):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        time.sleep(0.2)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _runs(pid: int, born: int) -> bool:
    try:  # where it is our own child, it stays a zombie until we ask
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    return born != 0 and _born(pid) == born
