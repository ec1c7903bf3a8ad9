"""spark-submit jobs/train.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.training import TRAIN

if __name__ == "__main__":
    main(TRAIN)
