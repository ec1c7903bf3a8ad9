"""The reads, shuffles and writes of a night's ETL in the plainest Spark, and nothing else.

Each step reads the same files and tables, groups the same rows by the same columns and writes
tables with the same rows and columns as the step of this project. Nothing is checked or promised:
no line is refused for a reason, no record is followed to its end, an event that comes late or a
second time by another log is not seen, a run twice doubles the rows, and nothing goes on from an
earlier night.
"""

from __future__ import annotations

from typing import Any

RECORD = "user string, item string, type string, ts string, rating string, value string"
LENGTH = 50
BUCKETS = (8, 16, 32, 50)
# The task's number and the row's within it, in 31 bits: unique up to a million rows a task.
NUMBER = (
    "cast(shiftright(monotonically_increasing_id(), 33) * 1000000 "
    "+ monotonically_increasing_id() % 8589934592 as int)"
)


class BareSpark:
    """One night: a folder of raw logs, a folder for the tables, and the night's date."""

    def __init__(self, spark: Any, log: str, folder: str, day: str) -> None:
        self.spark, self.log, self.folder, self.day = spark, log, folder, day

    def steps(self) -> dict[str, Any]:
        return {"ingest": self.ingest, "build_silver": self.silver, "build_gold": self.gold}

    def save(self, frame: Any, name: str, *partitions: str) -> None:
        writer = frame.write.format("delta").partitionBy(*partitions)
        # The fair start: Delta's statistics cost this project nothing where it has none.
        writer = writer.option("delta.dataSkippingNumIndexedCols", "0")
        writer.save(f"{self.folder}/{name}")

    def read(self, name: str) -> Any:
        return self.spark.read.format("delta").load(f"{self.folder}/{name}")

    def ingest(self) -> None:
        """Lines to a table, each with its file and a number."""
        lines = self.spark.read.text(f"{self.log}/dt=*/*.json.gz")
        rows = lines.selectExpr(
            "_metadata.file_name as source_file",
            "monotonically_increasing_id() as source_offset",
            "value as raw",
            f"date'{self.day}' as ingest_date",
        )
        self.save(rows, "bronze/events", "ingest_date")

    def silver(self) -> None:
        """Parsed, shuffled by content and kept once; users and items numbered."""
        from pyspark.sql import functions as F

        parsed = self.read("bronze/events").select(
            "*", F.from_json("raw", RECORD).alias("e"), F.col("raw").startswith("{").alias("good")
        )
        events = parsed.selectExpr(
            "case when not good then raw end as raw", "source_file", "source_offset", "good",
            "e.user as raw_user_id", "e.item as item_id",
            "e.type as event_type", "cast(e.rating as float) as rating",
            "cast(e.value as double) as value", "try_cast(e.ts as timestamp) as event_ts",
            "to_date(try_cast(e.ts as timestamp)) as event_date", "ingest_date",
        )  # fmt: skip
        once = events.dropDuplicates(["raw_user_id", "item_id", "event_type", "event_ts"])
        # The long hashes are made after the shuffles, as this project does.
        hashed = F.substring(F.sha2("raw_user_id", 256), 1, 32)
        once = once.withColumn("user_id", hashed).persist()
        good = once.where("good and event_date is not null")
        users = good.groupBy("user_id", "raw_user_id").agg(F.min("event_date").alias("first_seen"))
        users = users.withColumn("user_idx", F.expr(NUMBER))
        users = users.withColumn("ingest_date", F.lit(self.day).cast("date")).persist()
        items = good.groupBy("item_id").agg(F.min("event_date").alias("first_seen"))
        items = items.withColumn("item_idx", F.expr(NUMBER))
        rejects = once.where("not good or event_date is null")
        content = F.concat_ws("|", "user_id", "item_id", "event_type", "event_ts")
        kept = good.hint("rebalance", "event_date").select(
            F.md5(content).alias("event_id"), "user_id", "item_id", "event_type", "rating",
            "value", "event_ts", "event_date", "ingest_date",
        )  # fmt: skip
        self.save(kept, "silver/events", "event_date")
        self.save(
            rejects.select("source_file", "source_offset", "raw", "ingest_date"),
            "bronze/rejects",
            "ingest_date",
        )
        self.save(users.select("user_id", "user_idx", "first_seen", "ingest_date"), "silver/users")
        self.save(users.select("raw_user_id", "user_id"), "silver/user_vault")
        self.save(items, "silver/items")
        users.unpersist()
        once.unpersist()

    def gold(self) -> None:
        """Grouped by user; histories, windows, hold-out, ratings and figures of items written."""
        from pyspark.sql import functions as F

        items = self.read("silver/items").select("item_id", "item_idx")
        users = self.read("silver/users").select("user_id", "user_idx")
        events = self.read("silver/events").join(items, "item_id")
        event = F.struct(
            F.unix_micros("event_ts").alias("micros"),
            F.col("item_idx").alias("item"),
            F.length("event_type").alias("code"),
        )
        people = events.groupBy("user_id").agg(F.sort_array(F.collect_list(event)).alias("all"))
        people = people.join(users, "user_id").persist()
        self._save_sequences(people)
        self._save_windows(people)
        cut = f"unix_micros(timestamp'{self.day} 00:00:00')"
        held = people.selectExpr(
            "user_idx", f"slice(all.item, -least(size(all), {LENGTH}), {LENGTH}) as items",
            "size(all) as length", "array_sort(array_distinct(all.item)) as seen_items",
            f"array_distinct(filter(all, e -> e.micros >= {cut}).item) as targets",
        )  # fmt: skip
        self.save(held.where("size(targets) > 0"), "gold/holdout")
        rated = events.where("rating is not null").join(users, "user_id")
        latest = rated.groupBy("user_idx", "item_idx", "event_date").agg(
            F.max(F.struct("event_ts", "rating")).alias("newest")
        )
        ratings = latest.select("user_idx", "item_idx", "event_date", "newest.*")
        self.save(ratings.hint("rebalance", "event_date"), "gold/ratings", "event_date")
        figures = events.groupBy("item_idx", "event_date").agg(
            F.count(F.lit(1)).alias("events"), F.countDistinct("user_id").alias("users")
        )
        self.save(figures.hint("rebalance", "event_date"), "gold/item_stats", "event_date")
        people.unpersist()

    def _save_sequences(self, people: Any) -> None:
        last = f"slice(all, -least(size(all), {LENGTH}), {LENGTH})"
        bucket = " ".join(f"when size(items) <= {size} then {size}" for size in BUCKETS)
        rows = people.selectExpr(
            "user_idx", "user_id", f"{last}.item as items", f"{last}.code as event_types",
            f"transform({last}, e -> e.micros div 1000000) as event_times",
            "size(all) as length", "array_sort(array_distinct(all.item)) as seen_items",
            f"{last} as settled", "slice(all, -least(size(all), 5), 5) as recent",
        ).selectExpr("*", f"case {bucket} end as bucket")  # fmt: skip
        self.save(rows.hint("rebalance", "bucket"), "gold/sequences", "bucket")

    def _save_windows(self, people: Any) -> None:
        cut = people.selectExpr(
            "user_idx", "all", f"explode(sequence(0, (size(all) - 1) div {LENGTH})) as window"
        ).selectExpr(
            "user_idx", "window", f"slice(all, window * {LENGTH} + 1, {LENGTH + 1}) as w",
            "if(pmod(user_idx, 20) = 0, 'validation', 'train') as split",
        )  # fmt: skip
        bucket = " ".join(f"when size(w) <= {size + 1} then {size + 1}" for size in BUCKETS)
        rows = cut.selectExpr(
            "user_idx", "window", "w.item as items", "w.code as event_types",
            "transform(w, e -> e.micros div 1000000) as event_times", "size(w) as length", "split",
            f"case {bucket} end as bucket", "xxhash64(user_idx, window) as mixed",
        )  # fmt: skip
        padded = rows.selectExpr(
            "user_idx", "window", "mixed",
            *[f"concat(array_repeat({zero}, bucket - length), {name}) as {name}"
              for name, zero in (("items", "0"), ("event_types", "0"), ("event_times", "0L"))],
            "length", "split", "bucket",
        )  # fmt: skip
        placed = padded.repartition("split", "bucket", padded.mixed % 8)
        ordered = placed.sortWithinPartitions("split", "bucket", "mixed").drop("mixed")
        self.save(ordered, "gold/training_sequences", "split", "bucket")
