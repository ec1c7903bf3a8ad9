"""Errors meant for people: what is wrong, where, and what to do about it."""


class RecsysError(Exception):
    """An error whose message is complete: the command line prints it without a stack trace.

    Args:
        what: what is wrong, with the offending value.
        where: file, line, table or version; empty when ``what`` already says it.
        do: the next thing for the reader to type or change.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if do:
            lines.append(f"  do:    {do}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Spark and Horovod send errors between processes; keyword arguments need help to travel.
        return (_rebuild, (type(self), self.what, self.where, self.do))


def _rebuild(kind: type[RecsysError], what: str, where: str, do: str) -> RecsysError:
    return kind(what, where=where, do=do)


class ConfigError(RecsysError):
    """A setting is unknown, has the wrong type, or contradicts another one."""

    exit_code = 2


class InputError(RecsysError):
    """The raw log is missing, unreadable, or not of the declared format."""


class LakeError(RecsysError):
    """A table is missing, corrupt, or written by a newer version of this project."""


class ConflictError(LakeError):
    """Another run has written the same table meanwhile; the stage is to be done again."""


class TrainingError(RecsysError):
    """Training could not start or a rank ended early."""


class TrackingError(RecsysError):
    """The MLflow server or its store cannot be reached, or lacks what was asked for."""


class PublishError(RecsysError):
    """New lists are incomplete or wrong; the lists published before stay live."""


class ExportError(RecsysError):
    """A target did not take the published lists; its readers have the version before, whole."""


def first_line(error: BaseException) -> str:
    """The part of a Spark or Java error that a person reads, without the stack trace."""
    message = getattr(error, "getMessage", None)
    try:
        text = (message() if message else "") or str(error)
    except Exception:
        text = str(error)  # Spark does not find the words of some of Delta's errors
    lines = [line.strip(" :\t") for line in text.splitlines() if line.strip()]
    # Py4J puts a line of its own in front of Java's.
    if len(lines) > 1 and lines[0].startswith("An error occurred while calling"):
        del lines[0]
    return lines[0][:500] if lines else type(error).__name__
