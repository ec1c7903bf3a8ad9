"""Training: the feed from Parquet, ranks and their communication, one loop, checkpoints, MLflow."""
