"""AWS's encoding of event streams: a length, headers and a payload, each followed by a checksum."""

import json
import struct
from zlib import crc32


def _header(name: str, value: str) -> bytes:
    return struct.pack(f">B{len(name)}sBH", len(name), name.encode(), 7, len(value)) + value.encode()


def frame(payload: object, **headers: str) -> bytes:
    """One message. Header names are written with _ for -."""
    packed = b"".join(_header(f":{name.replace('_', '-')}", value) for name, value in headers.items())
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", len(packed) + len(body) + 16, len(packed))
    message = prelude + struct.pack(">I", crc32(prelude)) + packed + body
    return message + struct.pack(">I", crc32(message))


def frames(*events: dict) -> bytes:
    """Events, each a name and its payload."""
    kinds = {"message_type": "event", "content_type": "application/json"}
    return b"".join(frame(body, event_type=name, **kinds) for event in events for name, body in event.items())


def fault(name: str, message: str) -> bytes:
    """An exception inside of a stream."""
    return frame({"message": message}, message_type="exception", exception_type=name)
