"""What failed reads and writes of Spark and Delta mean, and what to do about them."""

from __future__ import annotations

from recsys.errors import ConflictError, LakeError, first_line

_CONFLICTS = (
    "DELTA_CONCURRENT_",
    "DELTA_METADATA_CHANGED",
    "DELTA_PROTOCOL_CHANGED",
    "ConcurrentAppendException",
    "ConcurrentDeleteReadException",
    "ConcurrentDeleteDeleteException",
    "ConcurrentTransactionException",
    "ConcurrentWriteException",
    "MetadataChangedException",
    "ProtocolChangedException",
)
"""How Delta says that another writer was first."""


def conflict(name: str, path: str) -> ConflictError:
    return ConflictError(
        f"another run has written table {name} at the same time",
        where=path,
        do="run the same command again; what is done is not done twice",
    )


def explain_write(name: str, path: str, error: Exception) -> LakeError:
    """Turn what Spark says of a failed write into something to act on."""
    text = all_text(error)
    if any(sign in text for sign in _CONFLICTS):
        return conflict(name, path)
    if "No space left on device" in text:
        return LakeError(
            f"the disk is full: table {name} was not written, what was there before is intact",
            where=path,
            do="free some space and run the same command again",
        )
    signs = (
        "Permission denied",
        "AccessDenied",
        "ACCESS_DENIED",
        "INVALID_ACCESS_KEY_ID",
        "Mkdirs failed",
        "DELTA_CANNOT_CREATE_LOG_PATH",
    )
    if any(sign in text for sign in signs):
        return LakeError(
            f"no permission to write table {name}",
            where=path,
            do="give the user that runs the job write access, or set lake.root elsewhere",
        )
    return LakeError(f"table {name} could not be written: {first_line(error)}", where=path)


def all_text(error: BaseException | None) -> str:
    """All that an error and its causes say, Java's ones too, to look for signs in."""
    texts = []
    while error is not None:
        texts += [str(error), str(getattr(error, "_stackTrace", None) or "")]
        error = error.__cause__ or getattr(error, "_cause", None)
    return "\n".join(texts)
