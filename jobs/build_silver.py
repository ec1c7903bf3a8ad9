"""spark-submit jobs/build_silver.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.etl import BUILD_SILVER

if __name__ == "__main__":
    main(BUILD_SILVER)
