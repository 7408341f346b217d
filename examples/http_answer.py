"""An HTTP server that answers a prompt in one response: `python examples/http_answer.py`

    curl -H 'Idempotency-Key: order-1207' -d '{"text": "Pay invoice 1207."}' http://127.0.0.1:8000/prompts

The agent runs in the server's process, the run is in the store (`THOUGHTGEAR_DB`, by default a file
here). The same `Idempotency-Key` again is the same run: nothing is paid twice, and what a server left
when it died goes on. An answer that takes longer than `PATIENCE_SECONDS` (30) is asked for again with the
same key. `PORT` is the port. Needs `pip install 'thoughtgear[codec-server]'`, or Starlette and uvicorn.
"""

import contextlib
import json
import os
from collections.abc import AsyncIterator

import uvicorn
from agent import make_handler
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from thoughtgear import LocalExecutor, PromptHandler, RunState
from thoughtgear.errors import InvalidInputError, RequestConflictError, ThoughtgearError, WaitTimeoutError


def make_app(handler: PromptHandler, patience: float) -> Starlette:
    """The server. `patience` is how many seconds a response may take."""

    async def prompt(request: Request) -> JSONResponse:
        text = await text_of(request)
        key = request.headers.get("idempotency-key")
        run = await handler.handle_prompt(text, request_id=key, wait=False)
        try:
            run = await handler.wait(run.run_id, timeout=patience)
        except WaitTimeoutError:
            return JSONResponse(answer(run), status_code=202, headers={"retry-after": "1"})
        return JSONResponse(answer(run))

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with handler:
            yield

    return Starlette(
        routes=[Route("/prompts", prompt, methods=["POST"])],
        exception_handlers={ThoughtgearError: refused},
        lifespan=life,
    )


async def text_of(request: Request) -> str:
    """The prompt of a request. Raises `InvalidInputError`."""
    try:
        return str((await request.json())["text"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise InvalidInputError('The body is JSON: {"text": "…"}.') from None


def answer(run: RunState) -> dict[str, object]:
    """What a client is told of a run."""
    error = run.error.model_dump() if run.error else None
    return {"run_id": run.run_id, "status": run.status, "output": run.output, "error": error}


async def refused(request: Request, exc: Exception) -> JSONResponse:
    """An error of the library, which holds no prompt and no key."""
    status = 503
    if isinstance(exc, InvalidInputError):
        status = 409 if isinstance(exc, RequestConflictError) else 400
    return JSONResponse({"error": type(exc).__name__, "message": str(exc)}, status_code=status)


if __name__ == "__main__":
    # The claim of a server that died holds the next one off for three seconds, and not for thirty.
    handler = make_handler(executor=LocalExecutor(claim_seconds=3))
    app = make_app(handler, float(os.environ.get("PATIENCE_SECONDS", "30")))
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
