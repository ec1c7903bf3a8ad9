"""Services to try and to test with: services.py start FOLDER [NAME ...] | stop FOLDER

Real ones, reachable on the loopback interface only: a Spark standalone master with two workers,
an S3-compatible server (moto), HDFS with one data node (Hadoop's mini cluster), MLflow's server;
Redis and PostgreSQL, whose password and certificate, made for this run, are ``FOLDER/password`` and
``FOLDER/server.crt``.
``FOLDER/services.json`` says where they are; what they log lies beside it. `make cluster-setup`
fetches what the first four need, `make stores-setup` the other two. ``stop`` ends the processes
that ``start`` made, by their ids, and no other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from clusters import start_hdfs, start_mlflow, start_s3, start_spark
from running import Finish, Services
from stores import start_postgres, start_redis

STARTERS: dict[str, Callable[[Services], Finish]] = {
    "spark": start_spark,
    "s3": start_s3,
    "hdfs": start_hdfs,
    "mlflow": start_mlflow,
    "redis": start_redis,
    "postgres": start_postgres,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("names", nargs="*", help=f"of {', '.join(STARTERS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(STARTERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(STARTERS)}")
    if options.action == "stop":
        Services.load(options.folder).stop()
        return
    services = Services(options.folder)
    services.start({name: STARTERS[name] for name in options.names or STARTERS})
    for name, address in services.addresses.items():
        print(f"{name:<9} {address}")


if __name__ == "__main__":
    main()
