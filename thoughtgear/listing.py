"""What the commands do that need the store alone: `runs` and `show`."""

from __future__ import annotations

import json

from thoughtgear.errors import ConfigurationError
from thoughtgear.ids import check_run_id
from thoughtgear.place import Output, Place
from thoughtgear.protocols import OrmAdapter, RunFilter
from thoughtgear.render import print_json, run_record, runs_table, show_run, waiting_text
from thoughtgear.stored import open_placed_store


async def list_runs(place: Place, where: RunFilter, output: Output, *, limit: int, after: str | None) -> int:
    """Show the runs of a store, newest first."""
    store = open_placed_store(place)
    try:
        page = await store.list_runs(where, after=after, limit=limit)
    finally:
        await store.aclose()
    if output.as_json:
        print_json({"runs": [run_record(state) for state in page.runs], "after": page.after})
    elif not page.runs:
        output.err.print("No runs.", highlight=False)
    else:
        output.out.print(runs_table(page.runs, output.out.width))
        if page.after:
            output.err.print(
                f"More: {_more(place, where, limit, page.after)}", soft_wrap=True, highlight=False
            )
    return 0


async def show(place: Place, run_id: str | None, output: Output) -> int:
    """Show a transcript; without an id that of the newest run."""
    store = open_placed_store(place)
    try:
        run_id = check_run_id(run_id) if run_id is not None else await _newest(store, place)
        state = await store.load_run(run_id)
        messages = await store.get_history(run_id)
    finally:
        await store.aclose()
    if output.as_json:
        print_json(
            {**run_record(state), "messages": [message.model_dump(mode="json") for message in messages]}
        )
    else:
        show_run(output.out, state, messages)
        if state.unsettled:
            output.err.print(waiting_text(state, place.stored.again), soft_wrap=True, highlight=False)
    return 0


def _more(place: Place, where: RunFilter, limit: int, after: str) -> str:
    """The line that shows the next page."""
    return place.again(
        "runs",
        status=where.status,
        handler=where.handler,
        session=where.session_id,
        user=where.user_id,
        metadata=[f"{key}={json.dumps(value)}" for key, value in where.metadata.items()],
        limit=limit,
        after=after,
    )


async def _newest(store: OrmAdapter, place: Place) -> str:
    page = await store.list_runs(limit=1)
    if not page.runs:
        line = Place(target=place.target or "TARGET", db=place.db).again("run PROMPT")
        raise ConfigurationError(f"The store has no runs yet; make one with: {line}")
    return page.runs[0].run_id
