"""Every table of the lake: columns, types, keys, partitioning, meaning.

Every column name in the system is written once, in ``names``; each layer's tables are in a module
of their own. Types are Spark SQL type names, so this room needs no engine: Spark parses
``Table.ddl``, the feed reads ``Table.names``. What must hold in the tables is in ``recsys.checks``.
"""

from recsys.schemas.bronze import *
from recsys.schemas.gold import *
from recsys.schemas.names import *
from recsys.schemas.ops import *
from recsys.schemas.silver import *
from recsys.schemas.table import Column as Column
from recsys.schemas.table import DataFile as DataFile
from recsys.schemas.table import PinnedTable as PinnedTable
from recsys.schemas.table import Table as Table

TABLES = (
    BRONZE_EVENTS,
    BRONZE_REJECTS,
    SILVER_EVENTS,
    SILVER_USERS,
    SILVER_ITEMS,
    SILVER_SET_ASIDE,
    SILVER_USER_ATTRIBUTES,
    SILVER_USER_VAULT,
    GOLD_SEQUENCES,
    GOLD_TRAINING_SEQUENCES,
    GOLD_TRAINING_EXAMPLES,
    GOLD_HOLDOUT,
    GOLD_RATINGS,
    GOLD_ITEM_STATS,
    GOLD_ITEM_LINKS,
    GOLD_USER_LINKS,
    GOLD_TOP_N,
    OPS_PUBLISHED,
    OPS_RUNS,
    OPS_LAKE,
    OPS_CHECKS,
    OPS_LOG_SCHEMAS,
)
