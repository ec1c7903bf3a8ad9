"""What each rank runs: ``python -m recsys.train.worker JOB.json``; ``--probe`` times it only.

Besides the result, a rank leaves its process id in the job's folder, and its error if it fails,
so that the launcher can name the rank and repeat the message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch

from recsys.config import Train
from recsys.errors import RecsysError
from recsys.files import write_atomically
from recsys.schemas import USER_LINKS
from recsys.train.batch import Recency
from recsys.train.commits import Commits
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import Feed, FeedOptions, petastorm_feed
from recsys.train.horovod_communication import (
    CYCLE,
    HorovodCommunicator,
    is_lost_connection,
    run_elastic,
)
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import FeedFactory, run_training
from recsys.train.objectives import choose_channels
from recsys.train.optimization import choose_device, choose_precision, is_emulated
from recsys.train.probe import Probe, run_probe
from recsys.train.rank_errors import describe_stall
from recsys.train.rank_files import (
    PID_FILE,
    STALLED_FILE,
    find_ranks,
    forget_ranks_from,
    report_error,
)
from recsys.train.rows import Rows
from recsys.train.search import NeverPrune, Pruner, TrialPruner
from recsys.train.tracking import MlflowTracker, NullTracker, Tracker
from recsys.train.user_links import read_user_codes
from recsys.train.watchdog import Watchdog

PROBE_FILE = "probe.json"
PROBE_OPTION = "--probe"
_LONG_CYCLE_MS = "5"

log = logging.getLogger(__name__)


def make_feed(job: TrainingJob, communicator: Communicator) -> Feed:
    """The Petastorm feed of one rank, as the settings say."""
    settings = job.settings
    device = choose_device(settings.train.device, communicator.local_rank)
    half_life = settings.train.recency_half_life_days
    run_date = date.fromisoformat(job.run_date)
    options = FeedOptions(
        seed=settings.train.seed,
        rank=communicator.rank,
        ranks=communicator.size,
        batch_size=settings.train.per_rank_batch_size,
        shuffle_rows=settings.feed.shuffle_buffer_rows,
        prefetch=settings.feed.prefetch_batches,
        recency=None if half_life is None else Recency(half_life, run_date),
        pin_memory=device.type == "cuda",
        batch_events=settings.train.per_rank_batch_events,
        channels=choose_channels(job),
        user_codes=find_user_codes(job),
        stages=settings.train.parallel.pipeline_stages,
    )
    return petastorm_feed(job.table, options, settings.feed.workers, settings.lake.store)


def find_user_codes(job: TrainingJob) -> Rows | None:
    """What is known of the job's users, if anything.

    Raises:
        TrainingError: a file of links can't be read.
    """
    urls = job.links.get(USER_LINKS)
    return read_user_codes(urls, job.settings.lake.store) if urls else None


def make_tracker(job: TrainingJob, communicator: Communicator) -> Tracker:
    """MLflow on rank 0 of a job that names a server or store; otherwise nothing."""
    if job.tracking_uri is None or communicator.rank != 0:
        return NullTracker()
    return MlflowTracker(job, communicator.size)


def make_pruner(job: TrainingJob, communicator: Communicator) -> Pruner:
    """The search's pruner on rank 0 of one of its trials; otherwise one that never prunes."""
    if job.trial is None or communicator.rank != 0:
        return NeverPrune()
    return TrialPruner(job.trial)


def train_rank(
    job: TrainingJob,
    communicator: Communicator,
    feed: FeedFactory = make_feed,
    commits: Commits | None = None,
) -> TrainingResult:
    """Train as one rank; its error, if any, is left in the job's folder before it is raised.

    ``commits``: of an elastic training, which goes on when another rank is lost.
    """
    with _reporting(job, communicator, elastic=commits is not None):
        if communicator.rank == 0:
            _warn_of_slow_precision(job.settings.train, communicator.local_rank)
        tracker, pruner = make_tracker(job, communicator), make_pruner(job, communicator)
        return run_training(job, communicator, tracker, feed, pruner, commits)


def _warn_of_slow_precision(settings: Train, local_rank: int) -> None:
    device = choose_device(settings.device, local_rank)
    if is_emulated(choose_precision(settings.precision, device), device):
        log.warning(
            "train.precision=%s: this processor has no instructions for it, "
            "train.precision=float32 is several times as fast",
            settings.precision,
        )


def probe_rank(job: TrainingJob, communicator: Communicator) -> Probe:
    """Time a few steps as one rank; rank 0 leaves the figures in the job's folder."""
    with _reporting(job, communicator):
        probe = run_probe(job, communicator, make_feed(job, communicator))
        if communicator.rank == 0:
            probe.save(Path(job.checkpoint_dir) / PROBE_FILE)
        communicator.barrier()
        return probe


@contextmanager
def _reporting(
    job: TrainingJob, communicator: Communicator, elastic: bool = False
) -> Iterator[None]:
    """Threads are set; the process id, and an error if there is one, go to the job's folder."""
    torch.set_num_threads(job.settings.train.threads_per_rank)
    folder = Path(job.checkpoint_dir)
    pid = f"{os.getpid()}\n".encode()
    write_atomically(folder / PID_FILE.format(rank=communicator.rank), pid)
    try:
        yield
    except Exception as error:
        if not elastic or not is_lost_connection(error):
            report_error(folder, communicator.rank, error)
        raise


def train_with_horovod(job: TrainingJob) -> None:
    """Train as a rank that one of Horovod's launchers has started.

    Raises:
        RecsysError: see ``run_training``.
        RuntimeError: the connection to another rank is lost.
    """
    with guard_rank(job) as watchdog:
        if job.settings.train.elastic:
            _train_elastic(job, watchdog)
        else:
            communicator = join_ranks(job)
            train_rank(job, communicator)
            communicator.shutdown()


def probe_with_horovod(job: TrainingJob) -> None:
    """Time a few steps as a rank that one of Horovod's launchers has started."""
    with guard_rank(job):
        communicator = join_ranks(job)
        probe_rank(job, communicator)
        communicator.shutdown()


def join_ranks(job: TrainingJob) -> HorovodCommunicator:
    """Join the other ranks that one of Horovod's launchers has started."""
    settings = job.settings.train
    if suits_long_cycle(settings):
        # Where train.exchange.cycle_ms or the user has not set it.
        os.environ.setdefault(CYCLE, _LONG_CYCLE_MS)
    return HorovodCommunicator(splits=settings.parallel.pipeline_stages > 1)


def suits_long_cycle(settings: Train) -> bool:
    """Whether a cycle of Horovod longer than its own millisecond makes steps faster.

    On CPUs each cycle takes time from the ranks' computing. An exchange waits for a cycle to
    begin: gradients do so once or twice a step, split tables and stages many times.
    """
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    at_once = settings.parallel.pipeline_stages == 1 and settings.exchange.tables == "replicated"
    return on_cpu and at_once


def _train_elastic(job: TrainingJob, watchdog: Watchdog) -> None:
    commits, folder = Commits(), Path(job.checkpoint_dir)

    def attempt(communicator: Communicator, check: Callable[[], None]) -> Communicator:
        watchdog.rank, commits.check = communicator.rank, check
        if communicator.rank == 0:
            log.info("training goes on with %d ranks", communicator.size)
            forget_ranks_from(folder, communicator.size)
        train_rank(job, communicator, commits=commits)
        return communicator

    run_elastic(attempt).shutdown()


def guard_rank(job: TrainingJob) -> Watchdog:
    """Of a rank that Horovod starts: it does not wait for another one in vain.

    It ends and names the other one, or, in an elastic training, tells the launcher.
    """
    folder, settings = Path(job.checkpoint_dir), job.settings.train
    seconds = settings.stall_timeout_seconds

    def end(waiting: set[int]) -> None:
        ranks = int(os.environ.get("HOROVOD_SIZE", "1"))
        error = describe_stall(set(range(ranks)) - waiting, ranks, seconds)
        report_error(folder, watchdog.rank, error)
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)

    def tell(waiting: set[int]) -> None:
        missing = sorted(find_ranks(folder) - waiting)
        path = folder / STALLED_FILE.format(rank=watchdog.rank)
        write_atomically(path, json.dumps(missing).encode())

    rank = int(os.environ.get("HOROVOD_RANK", "0"))
    watchdog = Watchdog(folder, rank, seconds, tell if settings.elastic else end)
    return watchdog


def main(arguments: list[str]) -> int:
    """Train (or probe) the job in the file ``arguments[0]`` as one rank of Horovod, or alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    job = TrainingJob.load(arguments[0])
    try:
        probes = PROBE_OPTION in arguments
        if job.settings.train.launcher == "single":
            (probe_rank if probes else train_rank)(job, SingleProcess())
        else:
            (probe_with_horovod if probes else train_with_horovod)(job)
    except RecsysError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        print("stopped: the connection to another rank is lost", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Not sys.exit: after a failure Horovod's threads wait for ranks that are gone.
    sys.stdout.flush()
    try:
        status = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
