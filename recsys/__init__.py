"""Batch recommender: Spark and Delta prepare the logs, Horovod trains, Spark scores every user."""

__version__ = "0.1.0"
