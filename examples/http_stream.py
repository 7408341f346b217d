"""An HTTP server that gives a run's id at once, to poll or to stream: `python examples/http_stream.py`

    curl -d '{"text": "Pay invoice 1207."}' http://127.0.0.1:8000/runs      # {"run_id": "…", …}
    curl http://127.0.0.1:8000/runs/RUN
    curl -N http://127.0.0.1:8000/runs/RUN/events

http://127.0.0.1:8000 in a browser has a page with both. The events are Server-Sent Events; their id is
the cursor of the stream, so that an `EventSource` whose connection broke goes on where it was, also with
another server or after a restart: it sends the last id in `Last-Event-ID`. A server that starts goes on
with the runs that it, or the one before it, left. `PORT` is the port. Needs `pip install
'thoughtgear[codec-server]'`, or Starlette and uvicorn.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator

import uvicorn
from agent import make_handler
from http_answer import answer, refused, text_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from thoughtgear import LocalExecutor, PromptHandler, StreamEvent
from thoughtgear.errors import RunNotFoundError, ThoughtgearError
from thoughtgear.protocols import RunFilter

STILL_HERE_SECONDS = 15.0
"""After so long without an event a comment is sent, so that no proxy takes the connection for dead."""

PAGE = """<!doctype html><meta charset="utf-8"><title>Runs</title>
<form><input name="text" size="40" value="Pay invoice 1207."><button>Send</button></form><pre></pre>
<script>
const out = document.querySelector("pre")
document.querySelector("form").onsubmit = async event => {
  event.preventDefault()
  const body = JSON.stringify({text: event.target.text.value})
  const run = await (await fetch("/runs", {method: "POST", body})).json()
  const source = new EventSource(run.events)
  const on = (kind, show) => source.addEventListener(kind, e => out.append(show(JSON.parse(e.data))))
  on("message", e => e.text + "\\n\\n")
  on("text", e => e.text)
  on("superseded", () => "\\n(cut off; again:)\\n")
  on("tool_start", e => "\\n-> " + e.call.name + " " + JSON.stringify(e.call.arguments) + "\\n")
  on("tool_end", e => "<- " + e.result.content + "\\n")
  on("end", e => { source.close(); return "\\n[" + e.status + "]\\n" })
}
</script>"""


def make_app(handler: PromptHandler) -> Starlette:
    """The server."""

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    async def start(request: Request) -> JSONResponse:
        key = request.headers.get("idempotency-key")
        run = await handler.handle_prompt(await text_of(request), request_id=key, stream=True, wait=False)
        where = f"/runs/{run.run_id}"
        links = {"run": where, "events": f"{where}/events"}
        return JSONResponse(answer(run) | links, status_code=202, headers={"location": where})

    async def look(request: Request) -> JSONResponse:
        run = await handler.get_run(request.path_params["run_id"])
        return JSONResponse(answer(run) | {"iterations": run.iteration})

    async def events(request: Request) -> Response:
        run = await handler.get_run(request.path_params["run_id"])
        after = request.headers.get("last-event-id") or request.query_params.get("after")
        source = handler.stream(run.run_id, after)
        first = await anext(source, None) if run.over else None
        if run.over and first is None:
            return Response(status_code=204)  # an EventSource that knows the end comes back no more
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(frames(source, first), media_type="text/event-stream", headers=headers)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with handler:
            await go_on(handler)
            yield

    routes = [
        Route("/", page),
        Route("/runs", start, methods=["POST"]),
        Route("/runs/{run_id}", look),
        Route("/runs/{run_id}/events", events),
    ]
    errors = {RunNotFoundError: unknown, ThoughtgearError: refused}
    return Starlette(routes=routes, exception_handlers=errors, lifespan=life)


async def go_on(handler: PromptHandler) -> None:
    """Drive what a server left when it ended. Several servers may do so: each run goes on in one of them."""
    for status in ("pending", "running"):
        after, more = None, True
        while more:
            page = await handler.store.list_runs(RunFilter(status=status, handler=handler.name), after=after)
            for run in page.runs:
                await handler.executor.schedule_next_iteration(run.run_id)
            after, more = page.after, page.after is not None


async def frames(events: AsyncGenerator[StreamEvent, None], first: StreamEvent | None) -> AsyncIterator[str]:
    """The events as frames, and a comment in between where none comes for a while."""
    if first is not None:
        yield first.sse()
    coming: asyncio.Future[StreamEvent | None] = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait((coming,), timeout=STILL_HERE_SECONDS)
            if not done:
                yield ": still here\n\n"
                continue
            event = coming.result()
            if event is None:
                return
            yield event.sse()
            coming = asyncio.ensure_future(anext(events, None))
    finally:
        coming.cancel()


async def unknown(request: Request, exc: Exception) -> JSONResponse:
    """There is no such run."""
    return JSONResponse({"error": type(exc).__name__, "message": str(exc)}, status_code=404)


if __name__ == "__main__":
    # The claim of a server that died holds the next one off for three seconds, and not for thirty.
    handler = make_handler(executor=LocalExecutor(claim_seconds=3))
    uvicorn.run(make_app(handler), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
