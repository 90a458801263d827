"""What a type can't say of settings: whether they fit together, and what follows from them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

from server.settings import KEY_LISTS, PRETEND_KEY, Settings, SettingsError, quoted, variable

_ORIGIN = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def completed(settings: Settings) -> Settings:
    """Check what a type can't say, and fill in what follows from other settings. Raises `SettingsError`."""
    _check_url("database_url", settings.database_url, ("postgresql", "postgres"))
    _check_url("redis_url", settings.redis_url, ("redis", "rediss", "unix"))
    for field in KEY_LISTS:
        keys = getattr(settings, field)
        identifiers = [key.partition(":")[0] for key in keys]
        if len(set(identifiers)) != len(identifiers):
            raise SettingsError(f"{variable(field)} has two keys with one id; give each its own.")
        if settings.database_url and not keys:
            raise SettingsError(
                f"{variable(field)} must be set when DATABASE_URL is; `looprooms settings --new-key` prints a key."
            )
    if settings.room_cents_least > settings.room_cents_most:
        raise SettingsError(
            f"{variable('room_cents_least')} is more than {variable('room_cents_most')}: no looproom could be sold."
        )
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise SettingsError(
                f"{variable('trusted_proxies')} has {quoted(network)}, which is not an address or a network."
            ) from None
    for host in settings.allowed_hosts:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]", host):
            raise SettingsError(
                f"{variable('allowed_hosts')} has {quoted(host)}, which is not a host name without a port."
            )
    for origin in settings.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"{variable('allowed_origins')} has {quoted(origin)}; an origin looks like https://example.org."
            )
    _check_mail(settings)
    _check_providers(settings)
    _check_payments(settings)
    return _at_home(settings)


def _at_home(settings: Settings) -> Settings:
    """Allow the server's own hosts and origins."""
    hosts, origins = settings.allowed_hosts, settings.allowed_origins
    own = tuple(f"http://{host}:{settings.port}" for host in hosts)
    if (home := settings.public_url) and not _ORIGIN.fullmatch(home):
        raise SettingsError(
            f"{variable('public_url')} is {quoted(home)}; it looks like https://example.org, with nothing after it."
        )
    if home:
        own += (home,)
        name = home.partition("://")[2]
        hosts += (re.sub(r":\d+$", "", name),)
    origins = (*origins, home) if origins and home else origins or own
    return msgspec.structs.replace(
        settings, allowed_hosts=tuple(dict.fromkeys(hosts)), allowed_origins=tuple(dict.fromkeys(origins))
    )


def _check_mail(settings: Settings) -> None:
    _check_url("smtp_url", settings.smtp_url, ("smtp", "smtps", "smtp+plain"))
    if settings.smtp_url and not urlsplit(settings.smtp_url).hostname:
        raise SettingsError(f"{variable('smtp_url')} names no host.")
    if not re.fullmatch(r"[^<>@\r\n]*<[^<>@\s]+@[^<>@\s]+>|[^<>@\s]+@[^<>@\s]+", settings.mail_from):
        raise SettingsError(
            f"{variable('mail_from')} is {quoted(settings.mail_from)}; it looks like Rooms <rooms@example.org>."
        )


def _check_providers(settings: Settings) -> None:
    needs = {
        "google_client_id": ("google_client_secret",),
        "apple_client_id": ("apple_team_id", "apple_key_id", "apple_private_key"),
    }
    for client, others in needs.items():
        for other in others:
            if getattr(settings, client) and not getattr(settings, other):
                raise SettingsError(f"{variable(other)} must be set when {variable(client)} is.")
    for field in ("google_url", "apple_url", "fcm_url", "stripe_api_base"):
        url = getattr(settings, field)
        local = urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}
        if not _ORIGIN.fullmatch(url) or not (url.startswith("https://") or local):
            raise SettingsError(
                f"{variable(field)} is {quoted(url)}; it looks like https://example.org, with nothing after it."
            )
    if settings.apple_client_id:
        from server.gateways.identity import apple_key

        try:
            apple_key(settings.apple_private_key)
        except ValueError:
            raise SettingsError(
                f"{variable('apple_private_key')} is not a key that Apple gives: P-256, in PEM."
            ) from None
    if settings.fcm_service_account:
        from server.gateways.push import service_account

        try:
            service_account(settings.fcm_service_account)
        except ValueError:
            raise SettingsError(
                f"{variable('fcm_service_account')} is not the JSON of a service account's key, as Google gives it."
            ) from None


def _check_payments(settings: Settings) -> None:
    if settings.stripe_secret_key == PRETEND_KEY:
        raise SettingsError(
            f"{variable('stripe_secret_key')} is that of the stand-in, which an embedded run starts by itself; leave it empty."
        )
    if bool(settings.stripe_secret_key) != bool(settings.stripe_webhook_secret):
        raise SettingsError(
            f"{variable('stripe_secret_key')} and {variable('stripe_webhook_secret')} must be set together."
        )


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
