"""spark-submit jobs/housekeeping.py --conf conf/cluster.yaml --lake s3a://bucket/lake"""

from recsys.cli.lake import housekeeping

if __name__ == "__main__":
    housekeeping()
