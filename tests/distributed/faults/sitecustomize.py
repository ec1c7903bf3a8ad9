"""Python imports this first in the ranks of some tests: it does harm to one of them.

``TEST_FAULT`` is a kind, a rank and the step at which that happens:

- kill, stop: SIGKILL or SIGSTOP, sent to itself;
- hang: the thread that trains sleeps forever;
- wait: alone, it trains no further until another rank has come;
- late: stops before it meets the others (at any step);
- shards: begins with a file less than the others (at any step).
"""

import os
import signal
import sys
import time


def plan_harm(kind: str, rank: int, step: int) -> None:
    import dataclasses

    from recsys.train.job import TrainingJob
    from recsys.train.loop import Trainer

    train_step, load = Trainer.train_step, TrainingJob.load.__func__
    done = []

    def harm(trainer, batches):
        if trainer.communicator.rank == rank and trainer.state.global_step == step and not done:
            done.append(kind)
            if kind in ("kill", "stop"):
                os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
            while kind == "hang" or (kind == "wait" and trainer.communicator.size == 1):
                time.sleep(0.05)
                if kind == "wait" and trainer.commits is not None:
                    trainer.commits.check()
        train_step(trainer, batches)

    def load_less(kind, path):
        job = load(kind, path)
        table = dataclasses.replace(job.table, files=job.table.files[1:])
        return dataclasses.replace(job, table=table)

    Trainer.train_step = harm
    if kind == "shards" and os.environ["HOROVOD_RANK"] == str(rank):
        TrainingJob.load = classmethod(load_less)


if "HOROVOD_RANK" in os.environ and "TEST_FAULT" in os.environ:
    fault, rank_text, step_text = os.environ["TEST_FAULT"].split()
    if fault == "late":
        if os.environ["HOROVOD_RANK"] == rank_text and "recsys.train.worker" in sys.orig_argv:
            os.kill(os.getpid(), signal.SIGSTOP)
    else:
        plan_harm(fault, int(rank_text), int(step_text))
