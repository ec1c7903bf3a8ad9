"""Submitted to a cluster: submitted.py JOB.json trains what the file says."""

import sys

from pyspark.sql import SparkSession

from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training

if __name__ == "__main__":
    session = SparkSession.builder.appName("training").getOrCreate()
    launch_training(TrainingJob.load(sys.argv[1]), session)
    session.stop()
