"""Google's Gemini API over HTTP: generateContent, streamed."""

from __future__ import annotations

from urllib.parse import quote

from thoughtgear.protocols import ModelRequest
from thoughtgear.providers.gemini_reply import ContentBuilder
from thoughtgear.providers.gemini_request import encode_request
from thoughtgear.providers.http import HttpProvider, Vendor


class GeminiProvider(HttpProvider):
    """A Gemini model. `GEMINI_API_KEY` (or `GOOGLE_API_KEY`) and `GEMINI_BASE_URL` are the defaults.

    Thought signatures are returned with the parts that they came with, as the API demands it. Vertex AI
    speaks the same: `base_url` is what stands before `/models/…`, and the token goes into `headers`.
    """

    vendor = Vendor(
        name="gemini",
        title="Gemini",
        url="https://generativelanguage.googleapis.com/v1beta",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        address="GEMINI_BASE_URL",
        example="gemini-2.5-flash",
        host="generativelanguage.googleapis.com",
    )

    def _auth(self, key: str) -> dict[str, str]:
        return {"X-Goog-Api-Key": key}

    def _encode(self, request: ModelRequest) -> tuple[str, bytes]:
        name = self.model if "/" in self.model else f"models/{self.model}"
        path = f"/{quote(name)}:streamGenerateContent?alt=sse"
        return path, encode_request(self.model, request)

    def _builder(self) -> ContentBuilder:
        return ContentBuilder()
