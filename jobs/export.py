"""spark-submit jobs/export.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.export import EXPORT

if __name__ == "__main__":
    main(EXPORT)
