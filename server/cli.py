"""The command line. What an operator did wrong is one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from server import settings as known_settings
from server.process.environment import Loaded, load
from server.settings import SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="looprooms", prog_name="looprooms")
def main() -> None:
    """VYBE LOOPROOMS, the engagement server: people meet in a looproom over one connection."""


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--workers", type=int, help="Processes on the port; each is a node.")
@click.option("--data-dir", help="Folder of the embedded stores.")
def serve(**options: Any) -> None:
    """Start the server, with embedded Postgres and Valkey unless DATABASE_URL and REDIS_URL name others."""
    loaded = _loaded(options)
    from server.process import serving

    try:
        code = serving.serve(loaded.settings)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    raise SystemExit(code)


@main.command(hidden=True)
@click.argument("descriptor", type=int)
def worker(descriptor: int) -> None:
    """Run one node on an inherited socket; its settings come on stdin. For `serve --workers`."""
    from server.process import serving

    try:
        code = serving.work(descriptor)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    raise SystemExit(code)


@main.command()
@click.option("--data-dir", help="Folder of the embedded stores.")
def migrate(*, data_dir: str | None) -> None:
    """Bring the database up to date (DATABASE_URL, or the embedded one)."""
    from server.process import operating, serving

    try:
        applied = operating.bring_up_to_date(_loaded({"data_dir": data_dir}).settings)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("The schema is current.")


@main.command()
@click.option("--demo-password", help="Let one sign in as the demo people with this. Without it nobody can.")
@click.option("--data-dir", help="Folder of the embedded stores.")
def seed(*, demo_password: str | None, data_dir: str | None) -> None:
    """Put the categories, demo people and demo looprooms into the database. Twice is once."""
    from server.process import operating, serving

    try:
        operating.put_demo_in(_loaded({"data_dir": data_dir}).settings, demo_password)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    click.echo("Categories, demo people and looprooms are there.")


@main.command()
@click.option("--retry", metavar="KIND", help="Try the dead jobs of this kind anew.")
@click.option("--data-dir", help="Folder of the embedded stores.")
def jobs(*, retry: str | None, data_dir: str | None) -> None:
    """Show which jobs wait, and which are dead and why."""
    from server.process import operating, serving

    try:
        said = operating.look_at_jobs(_loaded({"data_dir": data_dir}).settings, retry)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    for line in said or ["Nothing waits, and nothing is dead."]:
        click.echo(line)


@main.command()
@click.argument("address")
@click.option("--data-dir", help="Folder of the embedded stores.")
def invite(address: str, data_dir: str | None) -> None:
    """Invite ADDRESS to make an account: a running server mails a link, which is good for thirty days. Again sends another one."""
    from server.process import operating, serving

    try:
        operating.send_invitation(_loaded({"data_dir": data_dir}).settings, address)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    click.echo("The invitation is on its way, as soon as a server runs.")


@main.command()
@click.option(
    "--new-key",
    is_flag=True,
    help="Print a new key for LOOPROOMS_SIGNING_KEYS or LOOPROOMS_SEALING_KEYS, and nothing else.",
)
def settings(*, new_key: bool) -> None:
    """List every setting: value, default, where the value came from, and what it means."""
    if new_key:
        from server.process.keys import new_key as make_key

        click.echo(make_key())
        return
    loaded = _loaded({})
    for field in known_settings.Settings.__struct_fields__:
        click.echo(f"{known_settings.variable(field)} = {known_settings.shown(loaded.settings, field)}")
        click.echo(f"    {known_settings.meaning(field)}")
        click.echo(
            f"    default: {known_settings.default(field) or '(empty)'}; from: {loaded.sources[field]}"
        )


@main.command()
@click.argument("address")
@click.argument(
    "role",
    metavar="ROLE",
    type=click.Choice(["MEMBER", "CREATOR", "MODERATOR", "ADMIN"], case_sensitive=False),
)
@click.option("--data-dir", help="Folder of the embedded stores.")
def role(address: str, role: str, data_dir: str | None) -> None:
    """Give the person with the e-mail ADDRESS a ROLE, at once on all their connections: MEMBER, CREATOR, MODERATOR or ADMIN.

    The server need not be stopped for this. It is recorded.
    """
    loaded = _loaded({"data_dir": data_dir}).settings
    from protocol.moderation import Role
    from server.process import operating, serving

    try:
        changed = operating.give_role(loaded, address, Role(role))
    except serving.CannotStart as reason:
        _give_up(str(reason))
    click.echo(f"They are {role} now." if changed else f"They were {role} already.")


@main.group()
def keys() -> None:
    """Rotate the keys that the server signs and seals with."""


@keys.command()
@click.option("--new-key", is_flag=True, help="Make a new key first, where keys are kept in the data folder.")
@click.option("--data-dir", help="Folder of the embedded stores.")
def reseal(*, new_key: bool, data_dir: str | None) -> None:
    """Seal all personal fields under the newest key of LOOPROOMS_SEALING_KEYS, and say which key may go.

    The server does the same when it starts, and need not be stopped for this where its stores are not embedded.
    """
    from server.process import operating, serving

    try:
        click.echo(operating.seal_anew(_loaded({"data_dir": data_dir}).settings, new_key=new_key))
    except serving.CannotStart as reason:
        _give_up(str(reason))


@keys.command()
@click.option("--pause", type=float, help="Seconds until everybody knows a new key. Default: 34.")
@click.option("--data-dir", help="Folder of the embedded stores.")
def rotate(*, pause: float | None, data_dir: str | None) -> None:
    """Sign with a new key, and let the one before go on verifying.

    Where the keys are in a file (the embedded run's, or LOOPROOMS_SIGNING_KEYS_FILE), it is rewritten, and running nodes follow
    it. Where they are in LOOPROOMS_SIGNING_KEYS, its next value is printed, to be set on every node.
    """
    from server import rotation

    loaded = _loaded({"data_dir": data_dir}).settings
    try:
        if loaded.signing_keys and not loaded.signing_keys_file:
            step, after = rotation.after_next_step(loaded.signing_keys)
            _explain(step, loaded.access_token_seconds + rotation.EXPIRED_SECONDS)
            click.echo(",".join(after))
            return
        file = _key_file(loaded)
        learn_seconds = rotation.LEARN_SECONDS if pause is None else pause
        rotation.rotate(
            file, token_seconds=loaded.access_token_seconds, learn_seconds=learn_seconds, said=click.echo
        )
    except rotation.CannotRotate as reason:
        _give_up(str(reason))


@keys.command()
@click.option("--data-dir", help="Folder of the embedded stores.")
def retire(*, data_dir: str | None) -> None:
    """Take the key of before out of the file, once its last token has expired. The next rotation does it, too."""
    from server import rotation

    loaded = _loaded({"data_dir": data_dir}).settings
    if loaded.signing_keys and not loaded.signing_keys_file:
        _give_up("The keys are not in a file; `looprooms keys rotate` prints what to set.")
    try:
        rotation.retire(_key_file(loaded), token_seconds=loaded.access_token_seconds, said=click.echo)
    except rotation.CannotRotate as reason:
        _give_up(str(reason))


def _key_file(settings: known_settings.Settings) -> Path:
    from server.process.keys import SIGNING_KEYS

    return Path(settings.signing_keys_file or Path(settings.data_dir) / SIGNING_KEYS)


def _explain(step: str, wait: float) -> None:
    variable = known_settings.variable("signing_keys")
    said = {
        "add": f"Set {variable} to this on every node; then rotate again with that value, to put the new key first.",
        "promote": f"Set {variable} to this on every node: the new key signs. {wait:.0f} s after the last node has it, rotate "
        "again, to take the old key out.",
        "retire": f"Set {variable} to this on every node, {wait:.0f} s after the last of them got the value of now.",
    }
    click.echo(said[step], err=True)


@main.group()
def payments() -> None:
    """Payments, as an operator sees them."""


@main.command()
@click.option(
    "--retry",
    is_flag=True,
    help="Try what is not paid again now. What Stripe said no to waits a day, though.",
)
@click.option("--data-dir", help="Folder of the embedded stores.")
def payouts(*, retry: bool, data_dir: str | None) -> None:
    """Show which payouts to creators wait or were declined, and why, who can't be paid, and what was paid."""
    from server.process import operating, serving

    try:
        said = operating.look_at_payouts(_loaded({"data_dir": data_dir}).settings, retry=retry)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    for line in said or ["Nobody is to be paid, and nobody was."]:
        click.echo(line)


@payments.command()
@click.option(
    "--days",
    type=click.FloatRange(min=0.0, max=30.0),
    default=4.0,
    show_default=True,
    help="How far back to look for events that were missed.",
)
@click.option("--data-dir", help="Folder of the embedded stores.")
def reconcile(*, days: float, data_dir: str | None) -> None:
    """Repair what was missed of the payment provider's words. It is done every night, too; twice is once.

    The server need not be stopped for this.
    """
    from server.process import operating, serving

    try:
        found = operating.compare_payments(_loaded({"data_dir": data_dir}).settings, days)
    except serving.CannotStart as reason:
        _give_up(str(reason))
    click.echo(
        f"{found.missed} events were missed, {found.looked_at} subscriptions looked at, {found.changed} people stand anew."
    )


@main.command()
@click.argument("slug")
@click.option("--as", "name", required=True, help="Your name in the room.")
@click.option("--url", help="Where the server is. Default: the host and port of the settings.")
@click.option("--data-dir", help="Folder in which the demo account is kept.")
def join(slug: str, name: str, url: str | None, data_dir: str | None) -> None:
    """Join the looproom SLUG in this terminal."""
    loaded = _loaded({"data_dir": data_dir}).settings
    from server.terminal import join as terminal

    address = url or f"http://{loaded.host}:{loaded.port}"
    raise SystemExit(terminal.run(slug, name=name, url=address, data_dir=Path(loaded.data_dir) / "join"))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure a server from outside: `python -m bench`, whose --help lists its scenarios."""
    os.execv(sys.executable, [sys.executable, "-m", "bench", *arguments])  # noqa: S606 - our own, with what was typed


def _loaded(options: dict[str, Any]) -> Loaded:
    try:
        return load(overrides=options)
    except SettingsError as error:
        _give_up(str(error))


def _give_up(reason: str) -> NoReturn:
    click.echo(reason, err=True)
    raise SystemExit(2)
