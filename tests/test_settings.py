"""Settings: each says what it means and has bounds, what is wrong is told in one sentence, and no secret is ever shown."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import msgspec.inspect as mi
import pytest

from server.coherence import completed
from server.settings import (
    DEFAULTS,
    META,
    PRETEND_KEY,
    SECRETS,
    TYPES,
    Settings,
    SettingsError,
    as_text,
    default,
    meaning,
    quoted,
    shown,
    variable,
)

KEY_A, KEY_B = "a:" + "A" * 43, "b:" + "B" * 43
FIELDS = Settings.__struct_fields__


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_explained(field: str) -> None:
    """It has a sentence of its own, and a default that is allowed."""
    assert re.fullmatch(r"[A-Z`].*[.)]", meaning(field), re.DOTALL)
    assert msgspec.convert(DEFAULTS[field], TYPES[field]) == DEFAULTS[field]
    assert len({meaning(one) for one in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_every_number_has_bounds(field: str) -> None:
    """Nobody can set a time or a size to what can't be meant: nothing, less than nothing, or for ever."""
    kind = mi.type_info(TYPES[field])
    kind = kind.type if isinstance(kind, mi.Metadata) else kind
    if isinstance(kind, mi.IntType | mi.FloatType):
        assert kind.ge is not None or kind.gt is not None
        assert kind.le is not None
        for bad in (-1, float("inf"), float("nan")):
            with pytest.raises(msgspec.ValidationError):
                msgspec.convert(bad, TYPES[field])


def test_names_of_variables() -> None:
    """Two have the names that everyone uses, the others the prefix."""
    assert variable("database_url") == "DATABASE_URL"
    assert variable("redis_url") == "REDIS_URL"
    assert variable("port") == "LOOPROOMS_PORT"
    assert len({variable(field) for field in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8000, "8000"), (5.0, "5"), (0.05, "0.05"), (("a", "b"), "a,b"), ((), ""), ("", ""), ("x y", "x y")],
)
def test_values_as_one_writes_them(value: object, text: str) -> None:
    """A value is written as it stands in the environment."""
    assert as_text(value) == text


def test_defaults_as_one_writes_them() -> None:
    """So are the defaults."""
    assert [default(field) for field in ("port", "heartbeat_seconds", "allowed_hosts")] == [
        "8000",
        "25",
        "127.0.0.1,localhost,[::1]",
    ]


def test_no_secret_is_shown() -> None:
    """Neither a key nor a password is in what is printed, however the settings are printed; names and hosts are."""
    settings = Settings(
        database_url="postgresql://rooms:PRIVATE@db.example/rooms?password=PRIVATE",
        redis_url="rediss://:PRIVATE@redis.example:6380/1",
        smtp_url="smtps://rooms:PRIVATE@mail.example",
        signing_keys=("new:" + "PRIVATE" + "A" * 36, "old:" + "PRIVATE" + "B" * 36),
        sealing_keys=("k1:" + "PRIVATE" + "C" * 36,),
        google_client_secret="PRIVATE",
        apple_private_key="PRIVATE",
        fcm_service_account='{"private_key": "PRIVATE", "token_uri": "https://google.example", "client_email": "a@PRIVATE"}',
        stripe_secret_key="sk_live_PRIVATE",
        stripe_webhook_secret="whsec_PRIVATE",
    )
    printed = "\n".join(
        [repr(settings), str(settings), f"{settings}", *(shown(settings, field) for field in FIELDS)]
    )
    assert "PRIVATE" not in printed
    assert shown(settings, "database_url") == "postgresql://(hidden)@db.example/rooms?(hidden)"
    assert shown(settings, "redis_url") == "rediss://(hidden)@redis.example:6380/1"
    assert shown(settings, "signing_keys") == "new:(hidden),old:(hidden)"
    assert shown(settings, "port") == "8000"
    assert {field for field in FIELDS if "PRIVATE" in str(getattr(settings, field))} == SECRETS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"database_url": "mysql://h/d"}, "DATABASE_URL must start with postgresql:// or postgres://."),
        ({"database_url": "postgresql://h:PRIVATE/d"}, "DATABASE_URL is not a URL that can be read."),
        ({"redis_url": "http://h"}, "REDIS_URL must start with redis:// or rediss:// or unix://."),
        ({"redis_url": "redis://[PRIVATE"}, "REDIS_URL is not a URL that can be read."),
        (
            {"database_url": "postgresql:///d", "sealing_keys": (KEY_A,)},
            "LOOPROOMS_SIGNING_KEYS must be set when DATABASE_URL is; `looprooms settings --new-key` prints a key.",
        ),
        (
            {"database_url": "postgresql:///d", "signing_keys": (KEY_A,)},
            "LOOPROOMS_SEALING_KEYS must be set when DATABASE_URL is; `looprooms settings --new-key` prints a key.",
        ),
        (
            {"signing_keys": (KEY_A, KEY_B, KEY_A)},
            "LOOPROOMS_SIGNING_KEYS has two keys with one id; give each its own.",
        ),
        (
            {"room_cents_least": 600, "room_cents_most": 500},
            "LOOPROOMS_ROOM_CENTS_LEAST is more than LOOPROOMS_ROOM_CENTS_MOST: no looproom could be sold.",
        ),
        (
            {"stripe_secret_key": "sk_PRIVATE"},
            "LOOPROOMS_STRIPE_SECRET_KEY and LOOPROOMS_STRIPE_WEBHOOK_SECRET must be set together.",
        ),
        (
            {"stripe_webhook_secret": "whsec_PRIVATE"},
            "LOOPROOMS_STRIPE_SECRET_KEY and LOOPROOMS_STRIPE_WEBHOOK_SECRET must be set together.",
        ),
        (
            {"stripe_secret_key": PRETEND_KEY, "stripe_webhook_secret": "x"},
            "LOOPROOMS_STRIPE_SECRET_KEY is that of the stand-in, which an embedded run starts by itself; leave it empty.",
        ),
        (
            {"stripe_api_base": "http://api.stripe.com"},
            "LOOPROOMS_STRIPE_API_BASE is 'http://api.stripe.com'; it looks like https://example.org, with nothing after it.",
        ),
        (
            {"google_client_id": "rooms"},
            "LOOPROOMS_GOOGLE_CLIENT_SECRET must be set when LOOPROOMS_GOOGLE_CLIENT_ID is.",
        ),
        (
            {"apple_client_id": "rooms", "apple_team_id": "T", "apple_private_key": "PRIVATE"},
            "LOOPROOMS_APPLE_KEY_ID must be set when LOOPROOMS_APPLE_CLIENT_ID is.",
        ),
        (
            {
                "apple_client_id": "rooms",
                "apple_team_id": "T",
                "apple_key_id": "K",
                "apple_private_key": "PRIVATE",
            },
            "LOOPROOMS_APPLE_PRIVATE_KEY is not a key that Apple gives: P-256, in PEM.",
        ),
        (
            {"google_url": "http://accounts.example"},
            "LOOPROOMS_GOOGLE_URL is 'http://accounts.example'; it looks like https://example.org, with nothing after it.",
        ),
        (
            {"apple_url": "https://appleid.apple.com/"},
            "LOOPROOMS_APPLE_URL is 'https://appleid.apple.com/'; it looks like https://example.org, with nothing after it.",
        ),
        (
            {"trusted_proxies": ("10.0.0.0/8", "10.0.0.0/33")},
            "LOOPROOMS_TRUSTED_PROXIES has '10.0.0.0/33', which is not an address or a network.",
        ),
        (
            {"allowed_hosts": ("rooms.example:8000",)},
            "LOOPROOMS_ALLOWED_HOSTS has 'rooms.example:8000', which is not a host name without a port.",
        ),
        (
            {"allowed_origins": ("https://rooms.example/",)},
            "LOOPROOMS_ALLOWED_ORIGINS has 'https://rooms.example/'; an origin looks like https://example.org.",
        ),
        ({"smtp_url": "smtp://"}, "LOOPROOMS_SMTP_URL names no host."),
        (
            {"mail_from": "a@b.c\r\nBcc: d@e.f"},
            "LOOPROOMS_MAIL_FROM is 'a@b.c\\r\\nBcc: d@e.f'; it looks like Rooms <rooms@example.org>.",
        ),
        (
            {"public_url": "https://rooms.example/app"},
            "LOOPROOMS_PUBLIC_URL is 'https://rooms.example/app'; it looks like https://example.org, with nothing after it.",
        ),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], sentence: str) -> None:
    """What no type can say is said in one sentence that names the variable, and no secret."""
    with pytest.raises(SettingsError) as error:
        completed(Settings(**changes))
    assert str(error.value) == sentence


def test_all_that_goes_together() -> None:
    """A deployment with everything set is taken as it is."""
    settings = Settings(
        database_url="postgres://rooms@/rooms?host=/run/postgresql",
        redis_url="unix:///run/redis.sock",
        signing_keys=(KEY_A, KEY_B),
        sealing_keys=(KEY_A,),
        trusted_proxies=("10.0.0.7", "fd00::/8"),
        allowed_hosts=("rooms.example", "[::1]"),
        allowed_origins=("https://rooms.example",),
        mail_from="Rooms <rooms@example.org>",
    )
    assert completed(settings) == settings


def test_own_origins_follow_from_hosts() -> None:
    """With no origins set, this server's own pages may connect; a public address counts as its own."""
    plain = completed(Settings(port=81, allowed_hosts=("a.example", "[::1]")))
    assert plain.allowed_origins == ("http://a.example:81", "http://[::1]:81")
    public = completed(Settings(public_url="https://rooms.example:444"))
    assert public.allowed_hosts[-1] == "rooms.example"
    assert public.allowed_origins[-1] == "https://rooms.example:444"
    given = completed(Settings(public_url="https://rooms.example", allowed_origins=("https://app.example",)))
    assert given.allowed_origins == ("https://app.example", "https://rooms.example")


@pytest.mark.parametrize(
    ("changes", "home"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 81}, "http://127.0.0.1:81"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "::"}, "http://127.0.0.1:8000"),
        ({"public_url": "https://rooms.example"}, "https://rooms.example"),
    ],
)
def test_where_people_reach_it(changes: dict[str, Any], home: str) -> None:
    """The address that is printed and put into letters is one that a browser can open."""
    assert Settings(**changes).home == home


def test_long_values_are_cut() -> None:
    """A sentence stays a sentence, whatever was set."""
    assert quoted("") == "empty"
    assert quoted("x") == "'x'"
    assert len(quoted("x" * 1000)) < 70
    assert META.keys() == set(FIELDS)
