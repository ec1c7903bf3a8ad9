"""spark-submit jobs/ingest.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.etl import INGEST

if __name__ == "__main__":
    main(INGEST)
