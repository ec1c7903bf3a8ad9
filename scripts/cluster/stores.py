"""What lists are exported into: Redis and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from addresses import HOST, free_port, greets, wait
from running import Finish, Services, as_user, program, write_secret


def start_redis(services: Services) -> Finish:
    """A Redis that keeps nothing on disk."""
    port, tls_port, settings = free_port(), free_port(), services.folder / "redis.conf"
    certificate, key = services.certificate()
    lines = (
        f"bind {HOST}", f"port {port}", 'save ""', f"requirepass {services.password()}",
        f"tls-port {tls_port}", f"tls-cert-file {certificate}", f"tls-key-file {key}",
        "tls-auth-clients no",
    )  # fmt: skip
    write_secret(settings, "\n".join(lines))
    log = services.run("redis", [program("redis-server"), str(settings)])

    def finish() -> dict[str, str]:
        wait(lambda: greets(port, b"PING\r\n", b"NOAUTH"), log)
        tls = f"rediss://{HOST}:{tls_port}/0"
        return {"redis": f"redis://{HOST}:{port}/0", "redis-tls": tls}

    return finish


def start_postgres(services: Services) -> Finish:
    """A PostgreSQL with one database; it refuses to run as root, so it runs as its own user."""
    port, folder = free_port(), services.folder / "postgres"
    owner = "postgres" if os.geteuid() == 0 else None
    folder.mkdir()
    secret, key = folder / "superuser", folder / "server.key"
    certificate, own_key = services.certificate()
    write_secret(secret, services.password())
    write_secret(key, own_key.read_text())
    for path in (folder, secret, key) if owner else ():
        shutil.chown(path, owner, owner)
    if subprocess.run(["test", "-r", str(secret)], **as_user(owner)).returncode:
        sys.exit(f"the user {owner} can't reach {folder}: choose a folder that all may enter")
    data = str(folder / "data")
    make = [program("initdb"), "-D", data, "-U", "recsys", "-A", "scram-sha-256", "-N"]
    make += ["-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={secret}"]
    subprocess.run(make, cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user(owner))
    options = (
        f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories=", "fsync=off",
        "ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}",
    )  # fmt: skip
    settings = [text for option in options for text in ("-c", option)]
    command = [program("postgres"), "-D", data, *settings]
    # On SIGTERM it would wait for its clients to go.
    log = services.run("postgres", command, user=owner, end=signal.SIGINT)

    def finish() -> dict[str, str]:
        # The first bytes of a client that asks for TLS.
        wait(lambda: greets(port, bytes([0, 0, 0, 8, 4, 210, 22, 47]), b"S"), log)
        tls = f"postgresql://{HOST}:{port}/postgres"
        return {"postgres": f"{tls}?sslmode=disable", "postgres-tls": tls}

    return finish
