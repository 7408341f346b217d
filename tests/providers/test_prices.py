"""What replies and runs cost."""

import io
from dataclasses import fields

import pytest
from dialects import ANTHROPIC, DIALECTS
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from replay_server import replay, stream
from rich.console import Console

from thoughtgear import Limits, Price, PromptHandler
from thoughtgear.errors import ConfigurationError
from thoughtgear.models import Bill, Usage
from thoughtgear.prices import PriceList
from thoughtgear.protocols import ModelReply
from thoughtgear.render import run_record, show_run
from thoughtgear.testing import new_run
from thoughtgear.transitions import pay, save_reply, unnumbered

USAGE = Usage(input_tokens=1000, cached_tokens=400, cache_write_tokens=100, output_tokens=50)
CHEAP = {"m-1": Price(input=1.0, output=10.0, cached=0.5)}
COST = (4 * 1.0 + 16 * 0.5 + 9 * 10.0) / 1_000_000
"""Of a reply of the dialects: 20 tokens went in, 16 of them from the cache, 9 came out."""


async def run(tmp_path, *answers, dialect=ANTHROPIC, **settings):
    asked = 0

    async def answer(reader, writer) -> None:
        nonlocal asked
        asked += 1
        await answers[min(asked, len(answers)) - 1](reader, writer)

    async with replay(answer) as server:
        db = f"sqlite:///{tmp_path}/r.db"
        async with PromptHandler(
            model=dialect.make(server.base_url), db=db, tools=[look], **settings
        ) as handler:
            state = await handler.handle_prompt("Hi.")
            return state, await handler.history(state.run_id)


def look(path: str = "") -> str:
    """Look at a file."""
    return "seen"


def test_a_price_is_of_what_was_counted():
    """What the cache gave and took has prices of its own, or the input's."""
    assert Price(3, 15, cached=0.3, cache_write=3.75).of(USAGE) == pytest.approx(
        (500 * 3 + 400 * 0.3 + 100 * 3.75 + 50 * 15) / 1_000_000
    )
    assert Price(3, 15).of(USAGE) == pytest.approx((1000 * 3 + 50 * 15) / 1_000_000)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_run_costs_what_its_replies_cost(tmp_path, quick, dialect):
    """The cost of a reply stands in its message, the run's in its state, its last line and its record."""
    answers = stream(dialect.calls(("look", "{}"))), stream(dialect.text("Done."))
    state, history = await run(tmp_path, *answers, dialect=dialect, prices=CHEAP)
    costs = [message.cost for message in history if message.role == "assistant"]
    assert costs == [pytest.approx(COST)] * 2
    assert (state.cost, state.bill.priced) == (pytest.approx(2 * COST), 2)
    out = io.StringIO()
    show_run(Console(file=out, width=200), state, history)
    assert f" · ${2 * COST:.4f} · " in out.getvalue()
    assert run_record(state)["cost"] == state.cost


async def test_what_nobody_knows_is_never_guessed(tmp_path, quick):
    """A reply of an unknown model has no cost, and a run with one none either: it is over what is known."""
    state, history = await run(tmp_path, stream(ANTHROPIC.text("Done.")), prices={"another": Price(1, 1)})
    assert (state.cost, history[-1].cost, state.bill) == (None, None, Bill(unpriced=1))
    costs = iter([0.5, None])
    answers = stream(ANTHROPIC.calls(("look", "{}"))), stream(ANTHROPIC.text("Done."))
    state, history = await run(tmp_path, *answers, prices=lambda reply: next(costs))
    assert (state.cost, state.bill) == (None, Bill(spent=0.5, priced=1, unpriced=1, saved=1))
    out = io.StringIO()
    show_run(Console(file=out, width=200), state, history)
    assert " · over $0.5000 · " in out.getvalue()
    assert PriceList(CHEAP).cost(ModelReply(model="m-1")) is None  # nothing was counted


def test_summaries_do_not_make_up_for_replies():
    """A run with a reply of before its bill began has no cost, whatever else is on the bill."""
    state = new_run(model_replies=1)
    pay(state, [(USAGE, 0.5)] * 3, 0)
    assert (state.cost, state.bill.spent) == (None, 1.5)
    state = new_run()
    save_reply(state, unnumbered(role="assistant", usage=USAGE, cost=1.0), [], [], Limits())
    pay(state, [(USAGE, 0.5)], 0)
    assert state.cost == 1.5


async def test_a_function_that_fails_loses_no_reply(tmp_path, quick):
    """A reply that is paid for is saved, whatever the function of its price does."""

    def failing(reply: ModelReply) -> float:
        raise SystemExit

    for wrong in (failing, lambda _: float("nan"), lambda _: -1.0, lambda _: "SECRET"):
        state, _ = await run(tmp_path, stream(ANTHROPIC.text("Done.")), prices=[wrong])
        assert (state.output, state.cost) == ("Done.", None)
        state, _ = await run(tmp_path, stream(ANTHROPIC.text("Done.")), prices=[wrong, CHEAP])
        assert state.cost == pytest.approx(COST)


async def test_a_run_ends_at_its_limit_of_dollars(tmp_path, quick):
    """It buys nothing more, and says how to raise it."""
    again = stream(ANTHROPIC.calls(("look", "{}")))
    state, _ = await run(tmp_path, again, prices=lambda reply: 0.25, limits=Limits(cost=0.5))
    assert (state.model_replies, state.status, state.error.type) == (2, "failed", "LimitExceededError")
    assert "its limit of 0.5 US dollars; Limits(cost=…)" in state.error.message


@pytest.mark.parametrize("prices", [None, [], {}, [{}]])
def test_a_limit_of_dollars_needs_prices(prices):
    """A limit that would never stop a run is refused."""
    with pytest.raises(ConfigurationError, match=r"needs prices=") as caught:
        PromptHandler(model="scripted:echo", db="memory://", prices=prices, limits=Limits(cost=1.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [each.name for each in fields(Limits)])
def test_a_limit_is_a_number(name):
    """What is compared with a limit needs a finite number of 0 or more, and a size or a count a whole one."""
    whole = name not in ("seconds", "model_seconds", "cost")
    for wrong in (float("nan"), float("inf"), "5", True, -1, [], *([1.5] if whole else [])):
        with pytest.raises(ConfigurationError, match=rf"^Limits\({name}=…\) is a "):
            Limits(**{name: wrong})
    assert getattr(Limits(**{name: 0}), name) == 0
    with pytest.raises(ConfigurationError, match="limits= is a Limits"):
        PromptHandler(model="scripted:echo", db="memory://", limits={name: 5})


async def test_what_a_filter_stopped_has_its_price(tmp_path, quick):
    """A reply that a filter stopped is on the bill of the run that fails for it."""
    state, _ = await run(tmp_path, stream(ANTHROPIC.text("No", reason="refusal")), prices=CHEAP)
    assert (state.status, state.model_replies) == ("failed", 0)
    assert state.cost == pytest.approx(COST)


@pytest.mark.parametrize(
    ("host", "model"),
    [("api.anthropic.com", "claude-sonnet-4-5-20250929"), ("api.openai.com", "gpt-4o-mini-2024-07-18")]
    + [("generativelanguage.googleapis.com", "gemini-2.5-flash")]
    + [("bedrock-runtime.us-east-1.amazonaws.com", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")],
)
def test_the_table_of_genai_prices(host, model):
    """The package's prices are for the server that was asked, under either name of the model; your own in
    front of them win; a model of that name on another server costs what nobody knows."""
    theirs = TheirUsage(input_tokens=1000, cache_read_tokens=400, cache_write_tokens=100, output_tokens=50)
    price = float(calc_price(theirs, model, provider_api_url=f"https://{host}").total_price)
    for names in ({"model": model}, {"model": "nothing-known", "asked": model}):
        assert PriceList("genai-prices").cost(ModelReply(usage=USAGE, host=host, **names)) == price > 0
    reply = ModelReply(usage=USAGE, host=host, model=model)
    assert PriceList([{model: Price(0, 0)}, "genai-prices"]).cost(reply) == 0
    for other in ("127.0.0.1", None, "api.example.com"):
        assert PriceList("genai-prices").cost(ModelReply(usage=USAGE, host=other, model=model)) is None


@pytest.mark.parametrize("wrong", ["genai", 5, {"m": 1.0}, {5: Price(1, 1)}, [None]])
def test_prices_that_are_none_are_refused(wrong):
    """The error says what prices are."""
    with pytest.raises(ConfigurationError, match="prices= is a dict"):
        PromptHandler(model="scripted:echo", db="memory://", prices=wrong)


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), "3"])
def test_a_price_is_a_number(wrong):
    """Dollars are 0 or more."""
    with pytest.raises(ConfigurationError, match="US dollars"):
        Price(wrong, 1)
