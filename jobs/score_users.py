"""spark-submit jobs/score_users.py --conf conf/cluster.yaml --date 2026-01-02"""

from recsys.cli.job import main
from recsys.steps.lists import SCORE_USERS

if __name__ == "__main__":
    main(SCORE_USERS)
