"""What a training leaves behind: the bundle of its best weights."""

from __future__ import annotations

from recsys.bundle import BundleInfo, save_bundle
from recsys.models import Recommender
from recsys.train.job import TrainingJob, TrainingResult


def save_trained(job: TrainingJob, model: Recommender, result: TrainingResult) -> None:
    """Write the job's bundle, with the ranker in it that the job names."""
    info = BundleInfo(
        run_date=job.run_date,
        fingerprint=job.fingerprint,
        num_items=job.num_items,
        max_length=job.max_length,
        table_versions=job.table_versions,
        run_id=result.run_id,
        metrics=result.metrics,
        trained_before=job.trained_before,
        catalogue=job.catalogue,
    )
    save_bundle(job.bundle_dir, model, info, job.ranker_bundle or None)
