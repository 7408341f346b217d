"""A server of the tests: reads one HTTP request after the other and plays back what a test gives it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Replay:
    """Answers every request with `answer`; keeps what came."""

    answer: Answer
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                self.paths.append(head[0].split(" ")[1])
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
                self.headers.append(headers)
                self.bodies.append(json.loads(await reader.readexactly(int(headers["content-length"]))))
                self.asked.set()
                await self.answer(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def replay(answer: Answer):
    """Serve on a free port of 127.0.0.1."""
    played = Replay(answer)
    server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
    played.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield played
    finally:
        server.close()


def plain(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Answer:
    """An answer with a length. Header names are written with _ for -."""
    lines = [f"HTTP/1.1 {status} Something", f"content-type: {content_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


def named_events(*chunks: dict) -> bytes:
    """Chunks as server-sent events that have the name of their type."""
    return b"".join(f"event: {chunk.get('type')}\n".encode() + events(chunk) for chunk in chunks)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_7\r\n"


def stream(*pieces: bytes, whole: bool = True, hang: bool = False) -> Answer:
    """A chunked answer, each piece in a chunk of its own. Not `whole`: the connection drops instead of the
    last chunk. `hang`: nothing comes after
    the pieces, until the client hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        if hang:
            await reader.read()
        if hang or not whole:
            raise ConnectionResetError
        writer.write(b"0\r\n\r\n")

    return answer


def events(*chunks: dict | str) -> bytes:
    """Chunks as server-sent events."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False) for chunk in chunks]
    return "".join(f"data: {text}\n\n" for text in texts).encode(errors="surrogatepass")
