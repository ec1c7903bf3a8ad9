"""The steps of a night, each a function of the date, the lake and the settings.

Names and sentences are here alone, so that `recsys --help` need not load Spark and torch.
"""

SUMMARIES = {
    "ingest": "read the night's raw files into bronze, every record as it came",
    "build_silver": "turn records into events, duplicates and rejects; index new ids",
    "build_gold": "build sequences, training windows, hold-out, ratings and item statistics",
    "train": "train the model on a pinned version of the training windows",
    "evaluate": "compare with popularity, ALS and the champion; move the champion if better",
    "score_users": "write a list for every user with the champion, and check the lists",
    "publish": "make the night's lists live, in one commit",
    "export": "copy the live lists into the targets of export.targets, if there are any",
}
"""Name and one sentence of each step, in the night's order."""

ETL = ("ingest", "build_silver", "build_gold")
"""Steps that turn raw files into gold; a night that a later one has caught up ends with them."""

OPTIONAL = ("export",)
"""Steps that a night may lack, as its settings don't ask for them."""
