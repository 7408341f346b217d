"""How each provider's server speaks, so that one test can be told to all of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from event_stream import fault, frames
from replay_server import events, named_events

from thoughtgear.providers.anthropic import AnthropicProvider
from thoughtgear.providers.bedrock import BedrockProvider
from thoughtgear.providers.gemini import GeminiProvider
from thoughtgear.providers.openai import OpenAIProvider

Called = tuple[Any, Any]
"""The name of a call and its arguments, as text."""


@dataclass(frozen=True)
class Dialect:
    """`say` makes the body of a whole reply, of texts and calls, that ends for a reason in the provider's
    words; `reasons` has them for stop, calls, a limit and a filter. `failure` is an error object inside of a
    reply. `ends` is what stands in the last event."""

    name: str
    provider: Callable[..., Any]
    key: str
    address: str
    header: str
    say: Callable[..., bytes]
    reasons: Sequence[str]
    failure: Callable[[str, int], bytes]
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self, base_url: str, **settings):
        name = {} if self.name == "bedrock" else {"name": "m-1"}
        return self.provider(**name, base_url=base_url, **self.settings, **settings)

    def text(self, *pieces: Any, reason: str | None = None) -> bytes:
        return self.say(pieces, (), self.reasons[0] if reason is None else reason)

    def calls(self, *calls: Called, reason: str | None = None) -> bytes:
        return self.say((), calls, self.reasons[1] if reason is None else reason)


def anthropic_events(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> list[dict]:
    usage = {"input_tokens": 4, "cache_read_input_tokens": 16, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "content": []}
    made: list[dict] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}
    ]
    made.append({"type": "ping"})
    blocks = (
        [({"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in pieces])]
        if pieces
        else []
    )
    for number, (name, arguments) in enumerate(calls):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
        blocks.append((block, [{"type": "input_json_delta", "partial_json": arguments}]))
    for index, (block, deltas) in enumerate(blocks):
        made.append({"type": "content_block_start", "index": index, "content_block": block})
        made += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": index})
    if reason:
        delta = {"stop_reason": reason, "stop_sequence": None}
        made.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})
        made.append({"type": "message_stop"})
    return made


def anthropic_says(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> bytes:
    return named_events(*anthropic_events(pieces, calls, reason))


def anthropic_fails(word: str, status: int) -> bytes:
    return named_events({"type": "error", "error": {"type": word, "message": "SECRET"}})


ANTHROPIC = Dialect(
    "anthropic",
    AnthropicProvider,
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "x-api-key",
    anthropic_says,
    ("end_turn", "tool_use", "max_tokens", "refusal"),
    anthropic_fails,
)


def gemini_chunk(*parts: Any, reason: str | None = None, **more: Any) -> dict:
    candidate: dict = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "m-1", "responseId": "answer_1", **more}


def gemini_says(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> bytes:
    made = [gemini_chunk({"text": piece}) for piece in pieces]
    made += [
        gemini_chunk({"functionCall": {"name": name, "args": loaded(arguments)}}) for name, arguments in calls
    ]
    if reason:
        counts = {"promptTokenCount": 20, "candidatesTokenCount": 5, "thoughtsTokenCount": 4}
        made.append(gemini_chunk(reason=reason, usageMetadata={**counts, "cachedContentTokenCount": 16}))
    return events(*map(json.dumps, made))


def loaded(arguments: Any) -> Any:
    """Arguments as a server sends them that has parsed them: what is no JSON stays a text."""
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return arguments


def gemini_fails(word: str, status: int) -> bytes:
    return events({"error": {"code": status, "message": "SECRET", "status": word}})


GEMINI = Dialect(
    "gemini",
    GeminiProvider,
    "GEMINI_API_KEY",
    "GEMINI_BASE_URL",
    "x-goog-api-key",
    gemini_says,
    ("STOP", "STOP", "MAX_TOKENS", "SAFETY"),
    gemini_fails,
)


def openai_says(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> bytes:
    deltas: list[dict] = [{"content": piece} for piece in pieces]
    for index, (name, arguments) in enumerate(calls):
        function = {"name": name, "arguments": arguments}
        deltas.append({"tool_calls": [{"index": index, "id": f"c{index}", "function": function}]})
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    made = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if reason:
        made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        details = {"prompt_tokens_details": {"cached_tokens": 16}}
        made.append(
            {**head, "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 9, **details}}
        )
    return events(*map(json.dumps, made), *(["[DONE]"] if reason else []))


def openai_fails(word: str, status: int) -> bytes:
    return events({"error": {"message": "SECRET", "type": word, "code": status}})


OPENAI = Dialect(
    "openai",
    OpenAIProvider,
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "authorization",
    openai_says,
    ("stop", "tool_calls", "length", "content_filter"),
    openai_fails,
)


def bedrock_events(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> list[dict]:
    made: list[dict] = [{"messageStart": {"role": "assistant"}}]
    texts = [{"delta": {"text": piece}, "contentBlockIndex": 0} for piece in pieces]
    made += [{"contentBlockDelta": each} for each in texts]
    for index, (name, arguments) in enumerate(calls, start=1):
        use = {"toolUse": {"toolUseId": f"t{index}", "name": name}}
        made.append({"contentBlockStart": {"start": use, "contentBlockIndex": index}})
        delta = {"toolUse": {"input": arguments}}
        made.append({"contentBlockDelta": {"delta": delta, "contentBlockIndex": index}})
        made.append({"contentBlockStop": {"contentBlockIndex": index}})
    if reason:
        made.append({"messageStop": {"stopReason": reason}})
        counts = {"inputTokens": 4, "outputTokens": 9, "totalTokens": 29, "cacheReadInputTokens": 16}
        made.append({"metadata": {"usage": counts, "metrics": {"latencyMs": 5}}})
    return made


def bedrock_says(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> bytes:
    return frames(*bedrock_events(pieces, calls, reason))


def bedrock_fails(word: str, status: int) -> bytes:
    names = {400: "validationException", 429: "throttlingException", 500: "internalServerException"}
    return fault(names.get(status, "serviceUnavailableException"), "SECRET")


def bedrock(base_url: str, **settings: Any) -> BedrockProvider:
    login = {"region": "us-east-1", "access_key_id": "id", "secret_access_key": "hidden"}
    return BedrockProvider("m-1", base_url=base_url, **login, **settings)


BEDROCK = Dialect(
    "bedrock",
    bedrock,
    "",
    "",
    "authorization",
    bedrock_says,
    ("end_turn", "tool_use", "max_tokens", "content_filtered"),
    bedrock_fails,
)


def responses_events(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> list[dict]:
    about = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m-1", "output": []}
    about |= {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    made: list[dict] = [{"type": "response.created", "response": {**about, "status": "in_progress"}}]
    output: list[dict] = []
    if pieces:
        message: dict = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress"}
        made.append(
            {"type": "response.output_item.added", "output_index": 0, "item": {**message, "content": []}}
        )
        at = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
        empty = {"type": "output_text", "text": "", "annotations": []}
        made.append({"type": "response.content_part.added", **at, "part": empty})
        made += [{"type": "response.output_text.delta", **at, "delta": p, "logprobs": []} for p in pieces]
        whole = {
            "type": "output_text",
            "text": "".join(p for p in pieces if isinstance(p, str)),
            "annotations": [],
        }
        output.append({**message, "status": "completed", "content": [whole]})
        made.append({"type": "response.output_item.done", "output_index": 0, "item": output[0]})
    for index, (name, arguments) in enumerate(calls, start=len(output)):
        item = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": name}
        at = {"output_index": index, "item_id": f"fc_{index}"}
        opened = {**item, "arguments": "", "status": "in_progress"}
        made.append({"type": "response.output_item.added", "output_index": index, "item": opened})
        made.append({"type": "response.function_call_arguments.delta", **at, "delta": arguments})
        output.append({**item, "arguments": arguments, "status": "completed"})
        made.append({"type": "response.output_item.done", "output_index": index, "item": output[-1]})
    if reason:
        usage = {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29}
        usage |= {
            "input_tokens_details": {"cached_tokens": 16},
            "output_tokens_details": {"reasoning_tokens": 4},
        }
        incomplete = reason != "completed"
        end = {
            **about,
            "status": "incomplete" if incomplete else "completed",
            "usage": usage,
            "output": output,
        }
        end["incomplete_details"] = {"reason": reason} if incomplete else None
        made.append({"type": f"response.{end['status']}", "response": end})
    return [{**event, "sequence_number": number} for number, event in enumerate(made)]


def responses_say(pieces: Sequence[Any], calls: Sequence[Called], reason: str | None) -> bytes:
    return named_events(*responses_events(pieces, calls, reason))


def responses_fail(word: str, status: int) -> bytes:
    return named_events(
        {"type": "error", "code": word, "message": "SECRET", "param": None, "sequence_number": 9}
    )


RESPONSES = Dialect(
    "openai",
    OpenAIProvider,
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "authorization",
    responses_say,
    ("completed", "completed", "max_output_tokens", "content_filter"),
    responses_fail,
    {"api": "responses"},
)
OVER_HTTPX = [ANTHROPIC, GEMINI, RESPONSES]
DIALECTS = [*OVER_HTTPX, BEDROCK]
