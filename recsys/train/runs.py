"""Runs in MLflow that are no trainings: the parent of a search's trials, a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.train.tracking import find_experiment, reach


@dataclass(frozen=True)
class Run:
    """One run; every method raises ``TrackingError`` when MLflow can't be reached.

    Attributes:
        uri: MLflow server or store.
        timeout_seconds: wait for a server before giving up.
        run_id: of the run.
    """

    uri: str
    timeout_seconds: int
    run_id: str

    @classmethod
    def begin(
        cls, uri: str, timeout_seconds: int, experiment: str, name: str, run_id: str = ""
    ) -> Run:
        """Begin a run, or go on with ``run_id`` unless it is empty."""
        with reach(uri, timeout_seconds) as client:
            if run_id:
                client.update_run(run_id, status="RUNNING")
            else:
                found = find_experiment(client, uri, experiment)
                run_id = str(client.create_run(found, run_name=name).info.run_id)
        return cls(uri, timeout_seconds, run_id)

    def end(
        self,
        *,
        tags: Mapping[str, str],
        metrics: Iterable[tuple[str, float, int]] = (),
        files: Iterable[Path] = (),
    ) -> None:
        """Keep what came out and end the run; of a run that was ended before it is replaced.

        Args:
            tags: name to text. A parameter could not be changed once it is there.
            metrics: (name, value, step).
            files: go to the run's artifacts, under their own names.
        """
        with reach(self.uri, self.timeout_seconds) as client:
            for name, text in tags.items():
                client.set_tag(self.run_id, name, text)
            for name, value, step in metrics:
                client.log_metric(self.run_id, name, value, step=step)
            for path in files:
                client.log_artifact(self.run_id, str(path))
            client.set_terminated(self.run_id, "FINISHED")
