"""What replies cost, in US dollars: from the user's own prices, or the package `genai-prices`."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoughtgear.errors import ConfigurationError
from thoughtgear.models import Usage
from thoughtgear.protocols import ModelReply

MILLION = 1_000_000
GENAI = "genai-prices"
"""The word for the table of the package of that name."""

Pricing = Callable[[ModelReply], float | None]
"""Gives the cost of a reply in US dollars; None where it does not know."""

log = logging.getLogger("thoughtgear")


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens. What the prompt cache gave (`cached`) and took (`cache_write`) costs
    what the input does, where nothing else is said. Raises `ConfigurationError`."""

    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        given = (self.input, self.output, self.cached or 0, self.cache_write or 0)
        if not all(isinstance(each, int | float) and 0 <= each < math.inf for each in given):
            raise ConfigurationError("A Price is of numbers: US dollars for a million tokens.")

    def of(self, usage: Usage) -> float:
        """Return the cost of tokens, in US dollars."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        plain = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
        total = plain * self.input + usage.cached_tokens * cached + usage.cache_write_tokens * written
        return (total + usage.output_tokens * self.output) / MILLION


Prices = Mapping[str, Price] | Pricing | str
"""Prices by the model's name; or a function of a reply; or `"genai-prices"`."""


class PriceList:
    """Several prices, the first that knows a reply wins. Raises `ConfigurationError` for what is none."""

    def __init__(self, prices: Prices | Sequence[Prices] | None) -> None:
        several = [] if prices is None else prices if isinstance(prices, list | tuple) else [prices]
        self.empty = not any(each or callable(each) for each in several)
        self._pricings = [_pricing(each) for each in several]

    def cost(self, reply: ModelReply) -> float | None:
        """Return what a reply cost, in US dollars; None where nobody knows it, or nothing was counted. A
        function that fails knows nothing: the reply is paid for, and not to be lost for it."""
        if not reply.usage.total_tokens:
            return None
        for pricing in self._pricings:
            try:
                cost = pricing(reply)
                if cost is not None and 0 <= cost < math.inf:
                    return float(cost)
            except (Exception, SystemExit) as exc:
                log.warning("prices= failed for model %.80s: %s", reply.model, type(exc).__name__)
        return None


def _pricing(prices: Any) -> Pricing:
    if prices == GENAI:
        return _genai()
    if isinstance(prices, Mapping) and all(
        isinstance(name, str) and isinstance(price, Price) for name, price in prices.items()
    ):
        return _Table(dict(prices))
    if callable(prices):
        made: Pricing = prices
        return made
    raise ConfigurationError(
        f'prices= is a dict {{"model": Price(input=…, output=…)}}, a function, or "{GENAI}".'
    )


@dataclass(frozen=True)
class _Table:
    """The user's own prices, under the name of the model that answered or the one that was asked for."""

    prices: Mapping[str, Price]

    def __call__(self, reply: ModelReply) -> float | None:
        names = (reply.model or "", reply.asked or "")
        known = [self.prices[name] for name in names if name in self.prices]
        return known[0].of(reply.usage) if known else None


def _genai() -> Pricing:
    try:
        package = importlib.import_module("genai_prices")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"{exc.name} is not installed; run: pip install 'thoughtgear[prices]'"
        ) from exc

    def pricing(reply: ModelReply) -> float | None:
        """By the server's address, too: another server's model of the same name costs what nobody knows."""
        usage = package.Usage(
            input_tokens=reply.usage.input_tokens,
            cache_read_tokens=reply.usage.cached_tokens,
            cache_write_tokens=reply.usage.cache_write_tokens,
            output_tokens=reply.usage.output_tokens,
        )
        for name in filter(None, (reply.model, reply.asked)):
            try:
                address = f"https://{reply.host or ''}"
                found = package.calc_price(usage, name, provider_api_url=address)
            except LookupError:
                continue
            return float(found.total_price)
        return None

    return pricing
