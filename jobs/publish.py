"""spark-submit jobs/publish.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.lists import PUBLISH

if __name__ == "__main__":
    main(PUBLISH)
