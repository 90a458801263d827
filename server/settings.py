"""All settings, in one frozen struct: each with its type, bounds, default, and one sentence that says what it means.

`server.process.environment` reads them. Variables are named ``LOOPROOMS_`` and the field in capitals; ``DATABASE_URL`` and
``REDIS_URL`` have the names that everyone uses.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta, Struct

PREFIX = "LOOPROOMS_"
PRETEND_KEY = "sk_test_standin"
"""The API key of the stand-in that an embedded run starts for itself. Nobody can set it."""


class SettingsError(Exception):
    """A setting can't be used; the message is one sentence for the operator."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node runs. Made by `load`."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port to listen on.")] = 8000
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Processes on the port. Each is a node; they meet in Postgres and Redis alone.",
        ),
    ] = 1
    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Folder of the embedded Postgres and Valkey, of the generated keys, and of mails that are not sent.",
        ),
    ] = ".looprooms"
    database_url: Annotated[str, Meta(description="Postgres 14 or later. Empty: the embedded one.")] = ""
    redis_url: Annotated[str, Meta(description="Redis 7 or later, or Valkey. Empty: the embedded one.")] = ""
    media_folder: Annotated[
        str,
        Meta(
            description="Folder of pictures and of what looprooms play; all nodes must see the same. Empty: `media` in the data folder."
        ),
    ] = ""
    upload_bytes: Annotated[
        int,
        Meta(
            ge=1048576,
            le=1099511627776,
            description="Largest file that a looproom plays, in bytes. Pictures have at most 10 MiB.",
        ),
    ] = 536870912
    stored_bytes: Annotated[
        int,
        Meta(
            ge=1048576,
            le=1125899906842624,
            description="Bytes that a person may have stored; who pays and creators may have more, as of the limits.",
        ),
    ] = 5368709120
    postgres_pool_size: Annotated[
        int, Meta(ge=2, le=1000, description="Most connections of a node to Postgres.")
    ] = 10

    signing_keys: Annotated[
        tuple[Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,32}:[A-Za-z0-9_-]{43}$")], ...],
        Meta(
            description="Ed25519 keys of access tokens, `id:seed` with the 32 bytes of the seed in base64url. The first signs, "
            "all verify. Generated and kept in the data folder when Postgres is embedded, required otherwise."
        ),
    ] = ()
    signing_keys_file: Annotated[
        str,
        Meta(
            description="File with the signing keys instead, one a line. It is read again when it changes, so that they rotate "
            "without a restart."
        ),
    ] = ""
    sealing_keys: Annotated[
        tuple[Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,32}:[A-Za-z0-9_-]{43}$")], ...],
        Meta(
            description="AES-256 keys that personal fields are sealed with, `id:key` with the 32 bytes of the key in base64url. "
            "The first seals, all open. Generated and kept in the data folder when Postgres is embedded, required otherwise."
        ),
    ] = ()
    issuer: Annotated[str, Meta(min_length=1, max_length=200, description="`iss` of access tokens.")] = (
        "looprooms"
    )
    audience: Annotated[str, Meta(min_length=1, max_length=200, description="`aud` of access tokens.")] = (
        "looprooms"
    )
    access_token_seconds: Annotated[int, Meta(ge=5, le=86400, description="Life of an access token.")] = 600
    refresh_token_days: Annotated[
        float, Meta(gt=0, le=400, description="Life of a refresh token that is not used.")
    ] = 30

    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(description="Names that a request's Host may have, without the port."),
    ] = ("127.0.0.1", "localhost", "[::1]")
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins of web pages that may connect. Empty: this server's own, each allowed host with the port."
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."
        ),
    ] = ()

    public_url: Annotated[
        str,
        Meta(
            description="Where people reach this server, as `https://rooms.example.org`: links in mails begin with it. Its host "
            "and its origin are allowed ones. Empty: http with the host and the port."
        ),
    ] = ""
    smtp_url: Annotated[
        str,
        Meta(
            description="Mail server: `smtp://user:password@host:587` (STARTTLS), `smtps://...:465` (TLS), or `smtp+plain://host:25` "
            "(neither, for a relay on this machine). Empty: mails are written into the data folder, and their links into the log."
        ),
    ] = ""
    mail_from: Annotated[
        str,
        Meta(min_length=3, max_length=300, description="Sender of mails: an address, or `name <address>`."),
    ] = "VYBE LOOPROOMS <noreply@localhost>"

    unproven_days: Annotated[
        float,
        Meta(
            gt=0,
            le=3650,
            description="Days without a visit after which an account is deleted whose address somebody else has proven.",
        ),
    ] = 30
    letters_per_hour: Annotated[
        int,
        Meta(
            ge=1,
            le=10000000,
            description="Mails that all nodes together send in an hour, a tenth of it at once. Further ones wait.",
        ),
    ] = 1000

    registration: Annotated[
        Literal["open", "invited"],
        Meta(description="Who may make an account: anyone, or whoever was sent `looprooms invite`."),
    ] = "open"
    google_client_id: Annotated[
        str, Meta(max_length=300, description="Client id at Google of the web. Empty: Google is not offered.")
    ] = ""
    google_client_secret: Annotated[str, Meta(description="Its secret.")] = ""
    google_app_ids: Annotated[
        tuple[str, ...], Meta(description="Client ids at Google of apps that sign in on their device.")
    ] = ()
    google_url: Annotated[
        str, Meta(description="Where Google is; another one for a stand-in, under which all its paths are.")
    ] = "https://accounts.google.com"
    apple_client_id: Annotated[
        str, Meta(max_length=300, description="Services id at Apple. Empty: Apple is not offered.")
    ] = ""
    apple_team_id: Annotated[str, Meta(max_length=100, description="Team at Apple.")] = ""
    apple_key_id: Annotated[str, Meta(max_length=100, description="Id of the key at Apple.")] = ""
    apple_private_key: Annotated[
        str,
        Meta(
            description="The key itself, in PEM as Apple gives it; `\\n` may stand for the ends of its lines."
        ),
    ] = ""
    apple_app_ids: Annotated[
        tuple[str, ...], Meta(description="Bundle ids of apps that sign in with Apple on their device.")
    ] = ()
    apple_url: Annotated[str, Meta(description="Where Apple is; another one for a stand-in.")] = (
        "https://appleid.apple.com"
    )

    fcm_service_account: Annotated[
        str,
        Meta(
            description="Service account that pushes through Firebase Cloud Messaging: the JSON of its key, as Google gives it. "
            "Empty: nothing is pushed."
        ),
    ] = ""
    fcm_url: Annotated[
        str,
        Meta(
            description="Where Firebase Cloud Messaging is; another one for a stand-in, under which all its paths are."
        ),
    ] = "https://fcm.googleapis.com"
    push_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Time for a notification to be read, or acknowledged by the device that is told live, before it is pushed.",
        ),
    ] = 10

    heartbeat_seconds: Annotated[
        float, Meta(gt=0, le=600, description="Silence after which a client is pinged.")
    ] = 25
    heartbeat_timeout_seconds: Annotated[float, Meta(gt=0, le=600, description="Time to answer a ping.")] = 10
    hello_timeout_seconds: Annotated[float, Meta(gt=0, le=60, description="Time to say hello.")] = 5
    max_message_bytes: Annotated[
        int, Meta(ge=1024, le=16777216, description="Largest message of a client, after inflation.")
    ] = 65536
    outbox_limit_bytes: Annotated[
        int,
        Meta(
            ge=16384,
            le=67108864,
            description="Bytes that may wait for a slow client before it must come back.",
        ),
    ] = 262144
    slow_close_seconds: Annotated[
        float, Meta(gt=0, le=60, description="Time after which a client that reads nothing is closed.")
    ] = 6
    commands_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="Commands of one connection, sustained.")
    ] = 50
    commands_burst: Annotated[
        int, Meta(ge=1, le=100000, description="Commands of one connection, at once.")
    ] = 100
    limits_factor: Annotated[
        float,
        Meta(
            gt=0,
            le=1000000,
            description="Multiplies all limits that nodes count together. For a load tester, who is many people at one address.",
        ),
    ] = 1
    max_connections: Annotated[
        int, Meta(ge=1, le=10000000, description="Websocket connections that a node takes; others get 503.")
    ] = 50000
    new_sessions_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="New sessions that a node takes, sustained; others wait.")
    ] = 1000
    resumes_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="Returning sessions that a node takes; they go first.")
    ] = 3000
    max_connections_per_person: Annotated[
        int,
        Meta(
            ge=1, le=10000000, description="Connections that one person may have at a node: tabs and devices."
        ),
    ] = 100
    max_rooms_per_connection: Annotated[
        int, Meta(ge=1, le=10000, description="Looprooms that one connection may be in.")
    ] = 32

    replay_window: Annotated[
        int, Meta(ge=1, le=100000, description="Events of a room that a client who comes back can be sent.")
    ] = 1000
    small_room: Annotated[
        int, Meta(ge=1, le=10000, description="People up to which a room shows each join and leave.")
    ] = 50
    presence_grace_seconds: Annotated[
        float,
        Meta(ge=0, le=300, description="Time before others see a person leave whose connection dropped."),
    ] = 5
    switch_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Time within which, each at a random moment, who becomes anonymous leaves and their pseudonym comes.",
        ),
    ] = 30
    presence_lease_seconds: Annotated[
        float, Meta(ge=3, le=300, description="Time after which the people of a dead node are forgotten.")
    ] = 10
    pulse_seconds: Annotated[
        float, Meta(ge=0.005, le=10, description="Least time between two pulses of a busy room.")
    ] = 0.05
    feed_pulse_seconds: Annotated[
        float, Meta(ge=0.005, le=60, description="Least time between two pulses of a busy feed.")
    ] = 0.05
    drain_seconds: Annotated[
        float, Meta(ge=0, le=600, description="Most time that a stopping node gives its clients.")
    ] = 20

    stripe_secret_key: Annotated[
        str,
        Meta(
            description="API key of Stripe. Empty: a stand-in with pretend money where Postgres is embedded, otherwise nothing is paid.",
        ),
    ] = ""
    stripe_webhook_secret: Annotated[
        str,
        Meta(
            description="What Stripe signs webhooks with; they go to `/payments/webhook`. Required with the key. Several, one of "
            "each endpoint at Stripe, with commas.",
        ),
    ] = ""
    stripe_api_base: Annotated[
        str, Meta(description="Where Stripe's API is; plain http only on this machine.")
    ] = "https://api.stripe.com"
    stripe_timeout_seconds: Annotated[
        float, Meta(gt=0, le=30, description="How long a request waits for Stripe.")
    ] = 5
    creator_pro_cents: Annotated[
        int, Meta(ge=100, le=1000000, description="Price of CREATOR_PRO for a month, in cents.")
    ] = 2900
    trial_days: Annotated[
        int, Meta(ge=0, le=365, description="Days of premium that are free for who never subscribed.")
    ] = 7
    grace_days: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="Days that a subscription counts after a payment that failed, or whose renewal nothing is heard of.",
        ),
    ] = 3

    room_cents_least: Annotated[
        int, Meta(ge=50, le=100000, description="Least price of an exclusive looproom, in cents.")
    ] = 100
    room_cents_most: Annotated[
        int, Meta(ge=50, le=10000000, description="Highest price of an exclusive looproom, in cents.")
    ] = 50000
    room_fee_percent: Annotated[
        int, Meta(ge=10, le=20, description="What the platform keeps of the price of an exclusive looproom.")
    ] = 15
    session_pass_hours: Annotated[
        float,
        Meta(
            gt=0,
            le=720,
            description="Hours that a pass for one session of an exclusive looproom is good for.",
        ),
    ] = 12

    engagement_hours_a_day: Annotated[
        float,
        Meta(
            gt=0,
            le=24,
            description="Most hours a day that a member's presence in a premium looproom counts for its creator.",
        ),
    ] = 4
    payout_cents_least: Annotated[
        int,
        Meta(ge=1, le=1000000, description="Least that a creator is paid, in cents; less waits for more."),
    ] = 2500

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["json", "text", "auto"],
        Meta(
            description="One JSON object a line, or lines for people. `auto`: text on a terminal, else json."
        ),
    ] = "auto"

    def __repr__(self) -> str:
        """Show no secret, wherever this is printed."""
        return "Settings(" + ", ".join(f"{name}={shown(self, name)}" for name in self.__struct_fields__) + ")"

    @property
    def home(self) -> str:
        """Where people reach this server, without a slash at the end."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return self.public_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def pretends(self) -> bool:
        """Whether the money is pretended: the payment provider is a stand-in on this machine."""
        return bool(self.stripe_secret_key) and self.stripe_api_base.startswith("http:")


SECRETS = frozenset(
    {
        "database_url",
        "redis_url",
        "signing_keys",
        "sealing_keys",
        "smtp_url",
        "google_client_secret",
        "apple_private_key",
        "fcm_service_account",
        "stripe_secret_key",
        "stripe_webhook_secret",
    }
)
KEY_LISTS = {"signing_keys": "seed", "sealing_keys": "key"}
"""Secrets that are lists of an id and what this says: the first is used, all are good."""


def variable(field: str) -> str:
    """Name the environment variable of `field`."""
    return field.upper() if field in {"database_url", "redis_url"} else PREFIX + field.upper()


def meaning(field: str) -> str:
    """Return the sentence that says what `field` means."""
    return META[field].description or ""


def shown(settings: Settings, field: str) -> str:
    """Return the value of `field` as it may be shown to anyone."""
    value = getattr(settings, field)
    if field in KEY_LISTS:
        return ",".join(f"{key.partition(':')[0]}:(hidden)" for key in value)
    if field in SECRETS and not (field.endswith("_url") and "://" in value):
        return "(hidden)" if value else ""
    if field in SECRETS:
        return re.sub(r"\?.*", "?(hidden)", re.sub(r"(?<=://).*@", "(hidden)@", value))
    return as_text(value)


def default(field: str) -> str:
    """Return the default of `field` as one would write it into the environment."""
    return as_text(DEFAULTS[field])


def as_text(value: object) -> str:
    """Write a value as it stands in the environment."""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def quoted(value: object) -> str:
    """Show a value in a sentence, cut to a readable length."""
    text = str(value)
    return "empty" if not text else repr(text if len(text) <= 60 else text[:57] + "...")


TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
META: dict[str, Meta] = {name: hint.__metadata__[0] for name, hint in TYPES.items()}
DEFAULTS: dict[str, object] = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
