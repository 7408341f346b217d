"""Store URLs and dicts that can't work; they may hold credentials, which are never shown."""

from __future__ import annotations

from typing import Any

import pytest
from bad_input import SCALARS, STRANGE, TEXTS, cases, only_typed
from hypothesis import strategies as st

from thoughtgear.adapters.files import FilesAdapter
from thoughtgear.adapters.postgres import PostgresAdapter
from thoughtgear.adapters.sql import SqlAdapter
from thoughtgear.errors import ConfigurationError
from thoughtgear.registry import ADAPTERS, open_model, open_store

SECRET = "Hunter2hunter2"

SCHEMES = st.one_of(
    st.sampled_from((*ADAPTERS, "postgresql+asyncpg", "mongodb+srv", "mysql", "", "FILES")), TEXTS
).filter(lambda text: text != "mongodb+srv")  # asks a name server
ODD = st.sampled_from(
    (
        "",
        ":",
        "@",
        "/",
        "//",
        "?",
        "#",
        "%",
        "[",
        "]",
        "=",
        "&",
        "%2F",
        "\\",
        " ",
        "\n",
        "é",
        "\ud800",
        "..",
        ",",
    )
)
NAMES = st.sampled_from(
    (
        "create",
        "path",
        "endpoint",
        "region",
        "pool_size",
        "lock_timeout",
        "sslmode",
        "schema",
        "authSource",
        "w",
        SECRET,
    )
)
OPTIONS = st.lists(
    st.builds(
        lambda name, value: f"{name}={value}", NAMES, st.one_of(ODD, st.sampled_from(("1", "true", SECRET)))
    ),
    max_size=2,
).map("&".join)
URLS = st.builds(
    lambda scheme, sep, login, odd, host, tail, options: f"{scheme}{sep}{login}{odd}@{host}{tail}?{options}",
    SCHEMES,
    st.sampled_from(("://", ":", ":///", "")),
    st.sampled_from((f"user:{SECRET}", SECRET, f"{SECRET}:", f":{SECRET}", f"a:b:{SECRET}")),
    ODD,
    st.one_of(st.sampled_from(("127.0.0.1:1", "bucket", "h:99999", "[::1]:1", "h,g:1", "")), ODD),
    st.one_of(st.sampled_from(("/db", "/", "", "/a/b")), ODD),
    OPTIONS,
)


async def assert_silent(given: Any) -> None:
    with only_typed(SECRET):
        store = open_store(given)
        if isinstance(store, SqlAdapter | FilesAdapter) and not isinstance(store, PostgresAdapter):
            return  # there is no login in their URLs: all of it is the path, which names the store
        assert SECRET not in repr(store)
        assert SECRET not in str(store)
        assert SECRET not in repr(vars(store))
        await store.aclose()


@cases(64, url=URLS)
async def test_a_url_is_a_store_or_refused_in_silence(url: str) -> None:
    """A store URL makes a store or a typed error; neither shows what stands where a password can stand."""
    await assert_silent(url)


@cases(
    47,
    kind=st.one_of(st.sampled_from(tuple(ADAPTERS)), SCALARS),
    settings=st.dictionaries(
        st.one_of(
            st.sampled_from(
                [
                    "path",
                    "url",
                    "bucket",
                    "endpoint",
                    "region",
                    "access_key_id",
                    "secret_access_key",
                    "session_token",
                    "profile",
                    "host",
                    "port",
                    "user",
                    "password",
                    "database",
                    "username",
                    "schema",
                    "create",
                    "pool_size",
                    "lock_timeout",
                    "command_timeout",
                ]
            ),
            STRANGE.filter(lambda value: value.__hash__ is not None),
        ),
        st.one_of(
            st.just(SECRET), STRANGE, st.builds(lambda text: f"postgresql://u:{SECRET}@h/{text}", TEXTS)
        ),
        max_size=4,
    ),
)
async def test_a_dict_is_a_store_or_refused_in_silence(kind: Any, settings: Any) -> None:
    """The same of a dict, with values and names of any type."""
    shown = {name: value for name, value in settings.items() if name in SHOWN and value == SECRET}
    if not shown:
        await assert_silent({**settings, "type": kind})


SHOWN = (
    "path",
    "bucket",
    "endpoint",
    "region",
    "host",
    "database",
    "url",
    "user",
    "username",
    "profile",
    "schema",
)
"""What names the place of a store, and is not secret."""


@pytest.mark.parametrize("given", ["p4ss-word@host/db", f"{SECRET}", f"{SECRET}:x", f"My{SECRET}://x"])
def test_what_is_no_url_is_not_repeated(given: str) -> None:
    """A password that was given for a URL is not in the message."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(given)
    assert given.partition(":")[0] not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        f'{{"type": "postgresql", "password": "{SECRET}"',
        f'{{"{SECRET}"}}',
        f'{{"type": "{SECRET}"}}',
        f'{{"type": ["{SECRET}"]}}',
        f'{{"password": "{SECRET}"}}',
        '{"a":' * 100_000,
        '{"type": ' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_json_of_a_store_is_not_repeated(given: str) -> None:
    """JSON that can't be read, or names no store, is a typed error that repeats nothing and has no cause that
    does."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(given)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("model", ["sk-proj-abcdef", {"provider": "sk-proj-abcdef"}, {5: "x"}])
def test_a_key_that_was_given_for_a_model_is_not_repeated(model: Any) -> None:
    """An API key in the place of a model's name is not in the message."""
    with pytest.raises(ConfigurationError) as caught:
        open_model(model)
    assert "sk-proj" not in str(caught.value)


@cases(
    13,
    model=st.one_of(
        TEXTS,
        st.dictionaries(
            st.one_of(
                st.sampled_from(("name", "api_key", "base_url", "headers", "read_timeout", "keep_alive")),
                SCALARS,
            ),
            STRANGE,
            max_size=3,
        ).map(lambda given: {"provider": "openai", "name": "m", **given}),
    ),
)
async def test_a_model_is_made_or_refused(model: Any) -> None:
    """Settings of a model make a provider or a typed error."""
    with only_typed():
        await open_model(model).aclose()


@pytest.mark.parametrize(
    "settings",
    [{"host": f"postgresql://u:{SECRET}@h/"}, {"host": 5**9000}, {"application_name": object()}, {5: "x"}],
)
def test_settings_of_postgresql_are_texts_and_numbers(settings: Any) -> None:
    """A URL in the place of a host, and what is no text, are refused in silence."""
    with pytest.raises(ConfigurationError) as caught:
        open_store({"type": "postgresql", **settings})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"api_key": [SECRET]}, {"base_url": 1}, {"headers": {"X": 1}}, {"read_timeout": "soon"}]
)
def test_settings_of_a_model_have_their_types(settings: Any) -> None:
    """A setting of another type is a configuration error that does not repeat it."""
    with pytest.raises(ConfigurationError) as caught:
        open_model({"provider": "openai", "name": "m", **settings})
    assert SECRET not in str(caught.value)
