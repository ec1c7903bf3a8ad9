"""The step after publish: copies of the live lists in the targets that the settings name."""

from __future__ import annotations

from recsys import schemas
from recsys.config.export import Target
from recsys.errors import ExportError, RecsysError
from recsys.export.contract import export_lists
from recsys.export.lists import Lists, read_live
from recsys.export.targets import open_store
from recsys.steps.context import Context, Outcome, Step


def _export(context: Context) -> Outcome:
    """Export to each target; one that fails does not keep the others from theirs."""
    export = context.settings.export
    lists: dict[bool, Lists] = {}
    failed: dict[str, RecsysError] = {}
    done: dict[str, str] = {}
    for name, target in export.targets.items():
        raw = export.raw_user_ids if target.raw_user_ids is None else target.raw_user_ids
        try:
            # Kept for the other targets: what is live may change meanwhile.
            lists[raw] = lists.get(raw) or read_live(context.lake, raw)
            done[name] = _export_to(context, name, target, lists[raw])
        except RecsysError as error:
            failed[name] = error
            context.say(f"  {'export':<13} {name} failed: {error}")
        else:
            context.say(f"  {'export':<13} {name}: {done[name]}")
    if failed:
        raise _explain(context, failed)
    some = next(iter(lists.values()))
    return Outcome(
        f"{some.count:,} lists of {some.run_date} in {', '.join(done)}",
        rows_in=some.count,
        rows_out=some.count,
        details={f"target {name}": text for name, text in done.items()},
        tables_read={schemas.GOLD_TOP_N.name: some.table_version},
    )


def _export_to(context: Context, name: str, target: Target, lists: Lists) -> str:
    store = open_store(context.lake, name, target)
    return export_lists(store, lists, context.settings.export.keep_versions, context.force)


def _explain(context: Context, failed: dict[str, RecsysError]) -> ExportError:
    first = next(iter(failed.values()))
    targets = " ".join(f"--target {name}" for name in failed)
    return ExportError(
        f"{len(failed)} of {len(context.settings.export.targets)} targets failed: "
        + "; ".join(f"{name}: {error.what}" for name, error in failed.items()),
        where=first.where,
        do=f"{first.do}; then `recsys export {targets}`. In the lake the lists are live; readers "
        "of a target that failed have the version before, whole",
    )


EXPORT = Step(
    "export",
    ("export",),
    "publish",
    _export,
    # What a target holds is known there alone, and it changes with `recsys rollback`.
    repeats=True,
    wanted=lambda settings: bool(settings.export.targets),
)
