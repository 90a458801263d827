"""All settings, in one frozen struct: each with its type, bounds, default, and one sentence that says what it means.

A value comes from the command line, else from the environment, else from a file ``.env`` in the working directory, else
it is the default. Variables are named ``LOOPROOMS_`` and the field in capitals; ``DATABASE_URL`` and ``REDIS_URL`` have
the names that everyone uses. A secret may instead stand in a file that ``<NAME>_FILE`` names. A ``LOOPROOMS_`` variable
that is none of these stops the start, so that a misspelt setting is never silently its default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

PREFIX = "LOOPROOMS_"


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
            description="Folder of the embedded Postgres and Valkey and of the generated signing key.",
        ),
    ] = ".looprooms"
    database_url: Annotated[str, Meta(description="Postgres 14 or later. Empty: the embedded one.")] = ""
    redis_url: Annotated[str, Meta(description="Redis 7 or later, or Valkey. Empty: the embedded one.")] = ""
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
        Meta(description="Addresses or networks of proxies whose X-Forwarded-For is believed."),
    ] = ()

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
    ] = 8
    commands_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="Commands of one connection, sustained.")
    ] = 50
    commands_burst: Annotated[
        int, Meta(ge=1, le=100000, description="Commands of one connection, at once.")
    ] = 100
    max_connections: Annotated[
        int, Meta(ge=1, le=10000000, description="Websocket connections that a node takes; others get 503.")
    ] = 50000
    new_sessions_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="New sessions that a node takes, sustained; others wait.")
    ] = 1000
    resumes_per_second: Annotated[
        float, Meta(gt=0, le=100000, description="Returning sessions that a node takes; they go first.")
    ] = 3000
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
    presence_lease_seconds: Annotated[
        float, Meta(ge=3, le=300, description="Time after which the people of a dead node are forgotten.")
    ] = 10
    pulse_seconds: Annotated[
        float, Meta(ge=0.005, le=10, description="Least time between two pulses of a busy room.")
    ] = 0.05
    drain_seconds: Annotated[
        float, Meta(ge=0, le=600, description="Most time that a stopping node gives its clients.")
    ] = 20

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


SECRETS = frozenset({"database_url", "redis_url", "signing_keys"})


class Loaded(Struct, frozen=True):
    """Settings, and where each came from: ``default``, ``.env``, ``environment``, a file or ``command line``."""

    settings: Settings
    sources: dict[str, str]


def load(
    environment: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Loaded:
    """Read the settings. `overrides` are of the command line; None in it means not given. Raises `SettingsError`."""
    environment = os.environ if environment is None else environment
    raw: dict[str, object] = {}
    sources = dict.fromkeys(Settings.__struct_fields__, "default")
    dotenv = (Path.cwd() if folder is None else folder) / ".env"
    for source, variables in ((".env", _read_dotenv(dotenv)), ("environment", environment)):
        for name, (field, text, origin) in _known(variables, source).items():
            raw[field] = _parsed(field, text, name)
            sources[field] = origin
    for field, value in (overrides or {}).items():
        if value is not None:
            raw[field] = _checked(field, value, f"--{field.replace('_', '-')}")
            sources[field] = "command line"
    return Loaded(_completed(msgspec.convert(raw, Settings)), sources)


def variable(field: str) -> str:
    """Name the environment variable of `field`."""
    return field.upper() if field in {"database_url", "redis_url"} else PREFIX + field.upper()


def meaning(field: str) -> str:
    """Return the sentence that says what `field` means."""
    return _META[field].description or ""


def shown(settings: Settings, field: str) -> str:
    """Return the value of `field` as it may be shown to anyone."""
    value = getattr(settings, field)
    if field == "signing_keys":
        return ",".join(f"{key.partition(':')[0]}:(hidden)" for key in value)
    if field in SECRETS:
        return re.sub(r"\?.*", "?(hidden)", re.sub(r"(?<=://).*@", "(hidden)@", value))
    return as_text(value)


def default(field: str) -> str:
    """Return the default of `field` as one would write it into the environment."""
    return as_text(_DEFAULTS[field])


def as_text(value: object) -> str:
    """Write a value as it stands in the environment."""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _known(variables: Mapping[str, str], source: str) -> dict[str, tuple[str, str, str]]:
    """Pick our variables: name -> (field, text, origin). Raises `SettingsError` for one that is nobody's."""
    found: dict[str, tuple[str, str, str]] = {}
    for field in Settings.__struct_fields__:
        name = variable(field)
        if name in variables:
            found[name] = (field, variables[name], source)
        if field in SECRETS and f"{name}_FILE" in variables:
            if name in variables:
                raise SettingsError(f"{name} and {name}_FILE are both set; keep one of them.")
            path = variables[f"{name}_FILE"]
            try:
                text = Path(path).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise SettingsError(f"{name}_FILE names {path}, which can't be read: {reason}.") from None
            found[f"{name}_FILE"] = (field, text, f"file {path}")
    names = [variable(field) for field in Settings.__struct_fields__]
    names += [f"{variable(field)}_FILE" for field in SECRETS]
    for name in variables:
        if name.startswith(PREFIX) and name not in names:
            bare = name.removeprefix(PREFIX)
            near = bare if bare in names else difflib.get_close_matches(name, names, 1, 0)[0]
            raise SettingsError(f"{name} is not a setting; the nearest is {near}.")
    return found


def _parsed(field: str, text: str, name: str) -> object:
    """Turn the text of a variable into the field's type."""
    value: object = text.strip()
    if isinstance(_DEFAULTS[field], tuple):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    return _checked(field, value, name)


def _checked(field: str, value: object, name: str) -> object:
    try:
        return msgspec.convert(value, _TYPES[field], strict=False)
    except msgspec.ValidationError as error:
        # Of a secret not even what is wrong with its value is told, only what it should be.
        if field == "signing_keys":
            raise SettingsError(
                f"{name} must be a list of `id:seed`, separated by commas; a seed is 43 characters."
            ) from None
        raise SettingsError(f"{name} is {_quoted(value)}, but {_expectation(field, str(error))}.") from None


def _expectation(field: str, message: str) -> str:
    """Turn ``Expected `int` <= 65535`` into words for people."""
    choices = get_args(get_args(_TYPES[field])[0])
    if isinstance(_DEFAULTS[field], str) and choices:
        return f"must be one of {', '.join(choices)}"
    for pattern, words in (
        (r".*Expected `int`, got .*", "must be a whole number"),
        (r".*Expected `float`, got .*", "must be a number"),
        (r".*Expected `\w+` of length >= 1\b.*", "must not be"),
        (r".*Expected `\w+` of length <= (\d+).*", r"must have at most \1 characters"),
        (r".*Expected `\w+` >= (\d+(?:\.0*[1-9]\d*)?).*", r"must be at least \1"),
        (r".*Expected `\w+` <= (\d+(?:\.0*[1-9]\d*)?).*", r"must be at most \1"),
        (r".*Expected `\w+` > (\d+(?:\.0*[1-9]\d*)?).*", r"must be more than \1"),
    ):
        message, changed = re.subn(pattern, words, message)
        if changed:
            break
    return message


def _quoted(value: object) -> str:
    text = str(value)
    return "empty" if not text else repr(text if len(text) <= 60 else text[:57] + "...")


def _completed(settings: Settings) -> Settings:
    """Check what a type can't say, and fill in what follows from other settings. Raises `SettingsError`."""
    _check_url("database_url", settings.database_url, ("postgresql", "postgres"))
    _check_url("redis_url", settings.redis_url, ("redis", "rediss", "unix"))
    identifiers = [key.partition(":")[0] for key in settings.signing_keys]
    if len(set(identifiers)) != len(identifiers):
        raise SettingsError(f"{variable('signing_keys')} has two keys with one id; give each its own.")
    if settings.database_url and not settings.signing_keys:
        raise SettingsError(
            f"{variable('signing_keys')} must be set when DATABASE_URL is; `looprooms settings --new-key` prints a key."
        )
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise SettingsError(
                f"{variable('trusted_proxies')} has {_quoted(network)}, which is not an address or a network."
            ) from None
    for host in settings.allowed_hosts:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", host):
            raise SettingsError(
                f"{variable('allowed_hosts')} has {_quoted(host)}, which is not a host name without a port."
            )
    for origin in settings.allowed_origins:
        if not re.fullmatch(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", origin):
            raise SettingsError(
                f"{variable('allowed_origins')} has {_quoted(origin)}; an origin looks like https://example.org."
            )
    if settings.allowed_origins:
        return settings
    own = tuple(f"http://{host}:{settings.port}" for host in settings.allowed_hosts)
    return msgspec.structs.replace(settings, allowed_origins=own)


def _check_url(field: str, url: str, schemes: tuple[str, ...]) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SettingsError(f"{variable(field)} is not a URL that can be read.") from None
    if parts.scheme not in schemes:
        allowed = " or ".join(f"{scheme}://" for scheme in schemes)
        raise SettingsError(f"{variable(field)} must start with {allowed}.")


def _read_dotenv(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; ``#`` starts a comment line, quotes around a value go, ``export`` before a name too."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{path} can't be read: {reason}.") from None
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", line)
        if match is None:
            raise SettingsError(f"{path}, line {number}, is not NAME=value.")
        value = match[2]
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        variables[match[1]] = value
    return variables


_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
_META: dict[str, Meta] = {name: hint.__metadata__[0] for name, hint in _TYPES.items()}
_DEFAULTS: dict[str, object] = dict(
    zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
)
