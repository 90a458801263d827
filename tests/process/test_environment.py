"""Where settings come from: what beats what, secrets in files, and every mistake in one sentence before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec.inspect as mi
import pytest

from server.process.environment import load
from server.settings import DEFAULTS, TYPES, Settings, SettingsError, variable

KEY_A, KEY_B = "a:" + "A" * 43, "b:" + "B" * 43


def refusal(environment: dict[str, str], folder: Path, **overrides: object) -> str:
    """Return the sentence with which settings are refused."""
    with pytest.raises(SettingsError) as error:
        load(environment, folder=folder, overrides=overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_nothing_set(tmp_path: Path) -> None:
    """Everything has its default, and says so; variables of others are nobody's business."""
    loaded = load({"PATH": "/bin", "PORT": "81", "DATABASE": "x"}, folder=tmp_path)
    assert set(loaded.sources.values()) == {"default"}
    assert (loaded.settings.port, loaded.settings.database_url) == (8000, "")


def test_what_beats_what(tmp_path: Path) -> None:
    """The command line beats the environment, which beats the file, which beats the default."""
    (tmp_path / ".env").write_text("LOOPROOMS_PORT=1\nLOOPROOMS_WORKERS=2\nLOOPROOMS_HOST=file\n")
    environment = {"LOOPROOMS_PORT": "3", "LOOPROOMS_WORKERS": "4"}
    loaded = load(environment, folder=tmp_path, overrides={"port": 5, "workers": None, "log_level": "debug"})
    settings, sources = loaded.settings, loaded.sources
    assert (settings.port, settings.workers, settings.host) == (5, 4, "file")
    assert (settings.log_level, settings.max_connections) == ("debug", 50000)
    assert {sources[field] for field in ("port", "log_level")} == {"command line"}
    assert (sources["workers"], sources["host"]) == ("environment", ".env")
    assert sources["max_connections"] == "default"


def test_the_real_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being told otherwise, it is the process's, and the folder is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LOOPROOMS_HOST=file")
    monkeypatch.setenv("LOOPROOMS_PORT", "81")
    for name in [name for name in os.environ if name.startswith("LOOPROOMS_") and name != "LOOPROOMS_PORT"]:
        monkeypatch.delenv(name)
    settings = load().settings
    assert (settings.host, settings.port) == ("file", 81)


def test_values_become_their_types(tmp_path: Path) -> None:
    """Numbers, lists with spaces and empty parts, and text are taken from what is written."""
    settings = load(
        {
            "LOOPROOMS_PORT": " 81 ",
            "LOOPROOMS_PULSE_SECONDS": "0.2",
            "LOOPROOMS_ALLOWED_HOSTS": " a.example , ,b.example,",
            "LOOPROOMS_SIGNING_KEYS": f"{KEY_A}, {KEY_B}",
            "LOOPROOMS_LOG_FORMAT": "json",
        },
        folder=tmp_path,
    ).settings
    assert (settings.port, settings.pulse_seconds, settings.log_format) == (81, 0.2, "json")
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.signing_keys == (KEY_A, KEY_B)


def test_the_file(tmp_path: Path) -> None:
    """Comments, blank lines, quotes, spaces and `export` are understood; the last of two lines counts."""
    (tmp_path / ".env").write_text(
        "# a comment\n\n"
        "LOOPROOMS_HOST = '::1'\n"
        'export LOOPROOMS_ISSUER="rooms # one"\n'
        "LOOPROOMS_PORT=1\n"
        "  LOOPROOMS_PORT=2  \n"
        "LOOPROOMS_AUDIENCE=it's\n"
        "SOMETHING_ELSE=x\n"
        "EMPTY=\n"
    )
    settings = load({}, folder=tmp_path).settings
    assert (settings.host, settings.issuer, settings.port) == ("::1", "rooms # one", 2)
    assert settings.audience == "it's"


def test_a_broken_file(tmp_path: Path) -> None:
    """The line that can't be read is named; a file that is none is named."""
    file = tmp_path / ".env"
    file.write_text("LOOPROOMS_PORT=1\nLOOPROOMS_HOST\n")
    assert refusal({}, tmp_path) == f"{file}, line 2, is not NAME=value."
    file.write_bytes(b"LOOPROOMS_HOST=\xff\n")
    assert refusal({}, tmp_path) == f"{file} can't be read: it is not UTF-8 text."
    file.unlink()
    file.mkdir()
    assert refusal({}, tmp_path) == f"{file} can't be read: Is a directory."


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LOOPROOMS_PROT", "LOOPROOMS_PORT"),
        ("LOOPROOMS_PORTS", "LOOPROOMS_PORT"),
        ("LOOPROOMS_HEARTBEAT", "LOOPROOMS_HEARTBEAT_SECONDS"),
        ("LOOPROOMS_signing_keys", "LOOPROOMS_SIGNING_KEYS"),
        ("LOOPROOMS_SIGNING_KEY", "LOOPROOMS_SIGNING_KEYS"),
        ("LOOPROOMS_DATABASE_URL", "DATABASE_URL"),
        ("LOOPROOMS_REDIS_URL_FILE", "REDIS_URL_FILE"),
        ("LOOPROOMS_ROOMS_PER_CONNECTION", "LOOPROOMS_MAX_ROOMS_PER_CONNECTION"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "file"])
def test_an_unknown_variable(tmp_path: Path, name: str, nearest: str, source: str) -> None:
    """A name that is no setting stops the start, wherever it stands, and the nearest one is told."""
    environment = {name: "x"} if source == "environment" else {}
    if source == "file":
        (tmp_path / ".env").write_text(f"{name}=x")
    assert refusal(environment, tmp_path) == f"{name} is not a setting; the nearest is {nearest}."


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("port", "eighty", "LOOPROOMS_PORT is 'eighty', but must be a whole number."),
        ("port", "8.5", "LOOPROOMS_PORT is '8.5', but must be a whole number."),
        ("port", "", "LOOPROOMS_PORT is empty, but must be a whole number."),
        ("port", "0", "LOOPROOMS_PORT is '0', but must be at least 1."),
        ("port", "65536", "LOOPROOMS_PORT is '65536', but must be at most 65535."),
        ("heartbeat_seconds", "soon", "LOOPROOMS_HEARTBEAT_SECONDS is 'soon', but must be a number."),
        ("heartbeat_seconds", "0", "LOOPROOMS_HEARTBEAT_SECONDS is '0', but must be more than 0."),
        ("heartbeat_seconds", "inf", "LOOPROOMS_HEARTBEAT_SECONDS is 'inf', but must be at most 600."),
        ("pulse_seconds", "0", "LOOPROOMS_PULSE_SECONDS is '0', but must be at least 0.005."),
        ("host", "", "LOOPROOMS_HOST is empty, but must not be."),
        ("mail_from", "x", "LOOPROOMS_MAIL_FROM is 'x', but must have at least 3 characters."),
        (
            "log_level",
            "loud",
            "LOOPROOMS_LOG_LEVEL is 'loud', but must be one of debug, info, warning, error.",
        ),
        ("log_format", "XML", "LOOPROOMS_LOG_FORMAT is 'XML', but must be one of json, text, auto."),
    ],
)
def test_a_value_that_is_none(tmp_path: Path, field: str, text: str, sentence: str) -> None:
    """It is told with what it should be; on the command line by the option's name."""
    assert refusal({variable(field): text}, tmp_path) == sentence
    option = f"--{field.replace('_', '-')}"
    assert refusal({}, tmp_path, **{field: text}) == sentence.replace(variable(field), option)


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_every_bound_is_told_in_words(tmp_path: Path, field: str) -> None:
    """Whatever is wrong with whichever setting, the sentence is for people, not for those who know the library."""
    kind = mi.type_info(TYPES[field])
    kind = kind.type if isinstance(kind, mi.Metadata) else kind
    if isinstance(DEFAULTS[field], tuple | bool) or (
        isinstance(kind, mi.StrType) and kind.min_length is None
    ):
        return  # any text will do, or what is wrong with it is said in tests/test_settings.py
    for text in ("", "-1", "x", "x" * 10_000, "9" * 30, "nan"):
        sentence = ""
        try:
            load({variable(field): text}, folder=tmp_path)
        except SettingsError as error:
            sentence = str(error)
        assert "Expected" not in sentence
        assert len(sentence) < 250
        assert sentence.startswith(variable(field) if sentence else "")


def test_secrets_from_files(tmp_path: Path) -> None:
    """A secret may stand in a file of its own, with a line break at its end; where it came from is told."""
    for name, text in (
        ("keys", f"{KEY_A},{KEY_B}\n"),
        ("url", "postgresql://rooms:x@db/rooms\n"),
        ("seal", KEY_A),
    ):
        (tmp_path / name).write_text(text)
    loaded = load(
        {
            "LOOPROOMS_SIGNING_KEYS_FILE": str(tmp_path / "keys"),
            "LOOPROOMS_SEALING_KEYS_FILE": str(tmp_path / "seal"),
            "DATABASE_URL_FILE": str(tmp_path / "url"),
        },
        folder=tmp_path,
    )
    assert loaded.settings.signing_keys == (KEY_A, KEY_B)
    assert loaded.settings.database_url == "postgresql://rooms:x@db/rooms"
    assert loaded.sources["database_url"] == f"file {tmp_path / 'url'}"
    assert loaded.sources["signing_keys"] == f"file {tmp_path / 'keys'}"
    assert loaded.settings.signing_keys_file == str(tmp_path / "keys")


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "REDIS_URL", "LOOPROOMS_SIGNING_KEYS", "LOOPROOMS_SEALING_KEYS"]
)
def test_a_secret_that_is_nowhere_or_twice(tmp_path: Path, name: str) -> None:
    """A file that can't be read is named, and so are two places for one secret; the secret is not."""
    gone = tmp_path / "gone"
    assert (
        refusal({f"{name}_FILE": str(gone)}, tmp_path)
        == f"{name}_FILE names {gone}, which can't be read: No such file or directory."
    )
    gone.write_bytes(b"\xff\xfe")
    assert refusal({f"{name}_FILE": str(gone)}, tmp_path).endswith("can't be read: it is not text.")
    gone.write_text(KEY_A)
    value = KEY_A if "KEYS" in name else "redis://x:PRIVATE@h"
    sentence = refusal({name: value, f"{name}_FILE": str(gone)}, tmp_path)
    assert sentence == f"{name} and {name}_FILE are both set; keep one of them."


@pytest.mark.parametrize("name", ["LOOPROOMS_SIGNING_KEYS", "LOOPROOMS_SEALING_KEYS"])
@pytest.mark.parametrize(
    "text", ["PRIVATE", "a:PRIVATE", "a:" + "PRIVATE" * 8, ":" + "P" * 43, KEY_A + ";PRIVATE"]
)
def test_a_key_that_is_none(tmp_path: Path, name: str, text: str) -> None:
    """What a key looks like is told, and nothing of what was set."""
    sentence = refusal({name: text}, tmp_path)
    assert "PRIVATE" not in sentence
    assert "P" * 10 not in sentence
    assert sentence.startswith(f"{name} must be a list of `id:")
