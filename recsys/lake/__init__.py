"""Spark and Delta: raw logs to bronze, silver and gold, and the published lists."""
