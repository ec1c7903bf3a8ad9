"""spark-submit jobs/evaluate.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.evaluation import EVALUATE

if __name__ == "__main__":
    main(EVALUATE)
