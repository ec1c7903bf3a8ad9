"""Files and folders on any file system that Hadoop knows (local, HDFS, S3)."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from recsys.java import file_system, hadoop_path, java_class, read_text


class Folder:
    """A folder at ``url``; ``name`` arguments are paths inside it."""

    def __init__(self, spark: SparkSession, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        self._spark = spark
        self._fs: Any = file_system(spark, self._path(""))
        if self._fs.getUri().getScheme() == "file":
            # The local file system keeps a hidden checksum beside each file, and refuses the file
            # once an editor changes it. Beneath it lies the one that does not.
            local = java_class(spark, "org.apache.hadoop.fs.FileSystem")
            conf = spark.sparkContext._jsc.hadoopConfiguration()
            self._fs = local.getLocal(conf).getRawFileSystem()

    def exists(self, name: str = "") -> bool:
        """Whether the folder, or something in it, exists."""
        return bool(self._fs.exists(self._path(name)))

    def list(self, name: str = "") -> list[str]:
        """Names of what lies in the folder, ascending."""
        statuses = self._fs.listStatus(self._path(name))
        return sorted(str(status.getPath().getName()) for status in statuses)

    def beside(self, name: str) -> Folder:
        """A folder with the same parent."""
        parent, _, own = self.url.rpartition("/")
        return Folder(self._spark, f"{parent}/{name}" if parent or own != self.url else name)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    def make(self) -> None:
        """Create the folder and its parents.

        Raises:
            OSError: the file system did not do it.
        """
        try:
            made = self._fs.mkdirs(self._path(""))
        except Exception as error:
            reason = str(getattr(error, "java_exception", error)).splitlines()[0]
            raise OSError(reason) from error
        if not made:
            raise OSError(f"could not create {self.url}")

    def delete(self, name: str = "") -> None:
        """Delete the folder, or something in it, with all that it holds."""
        self._fs.delete(self._path(name), True)

    def move(self, name: str, target: str) -> None:
        """Rename something in the folder.

        Raises:
            OSError: the file system did not do it.
        """
        self._rename(self._path(name), self._path(target))

    def move_to(self, other: Folder) -> None:
        """Become ``other``, which must not exist.

        Raises:
            OSError: the file system did not do it.
        """
        parent = other._path("").getParent()
        if parent is not None:
            self._fs.mkdirs(parent)
        self._rename(self._path(""), other._path(""))

    def read(self, name: str) -> str:
        """A small text file."""
        return read_text(self._spark, self._fs.open(self._path(name)))

    def write(self, name: str, text: str) -> None:
        """Write a small text file."""
        stream = self._fs.create(self._path(name), True)
        try:
            stream.write(bytearray(text.encode("utf-8")))
        finally:
            stream.close()

    def _path(self, name: str) -> Any:
        return hadoop_path(self._spark, f"{self.url}/{name}" if name else self.url)

    def _rename(self, source: Any, target: Any) -> None:
        if not self._fs.rename(source, target):
            raise OSError(f"could not rename {source.toString()} to {target.toString()}")
