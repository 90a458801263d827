"""Where settings come from: the command line, else the environment, else a file ``.env``, else the default.

A secret may instead stand in a file that ``<NAME>_FILE`` names. A ``LOOPROOMS_`` variable that is no setting stops the
start and names the nearest one, so that a misspelt setting is never silently its default.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec
from msgspec import Struct

from server.coherence import completed
from server.settings import (
    DEFAULTS,
    KEY_LISTS,
    PREFIX,
    SECRETS,
    TYPES,
    Settings,
    SettingsError,
    quoted,
    variable,
)


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
    _read_signing_keys(raw, sources)
    for field, value in (overrides or {}).items():
        if value is not None:
            raw[field] = _checked(field, value, f"--{field.replace('_', '-')}")
            sources[field] = "command line"
    return Loaded(completed(msgspec.convert(raw, Settings)), sources)


def _read_signing_keys(raw: dict[str, object], sources: dict[str, str]) -> None:
    """Take the signing keys from the file that holds them. Raises `SettingsError`."""
    path = raw.get("signing_keys_file")
    if not path:
        return
    name, file_name = variable("signing_keys"), variable("signing_keys_file")
    if "signing_keys" in raw:
        raise SettingsError(f"{name} and {file_name} are both set; keep one of them.")
    raw["signing_keys"] = _parsed("signing_keys", ",".join(_read(str(path), file_name).split()), file_name)
    sources["signing_keys"] = f"file {path}"


def _read(path: str, name: str) -> str:
    """Return the text of a file that a variable names. Raises `SettingsError`."""
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"{name} names {path}, which can't be read: {reason}.") from None


def _known(variables: Mapping[str, str], source: str) -> dict[str, tuple[str, str, str]]:
    """Pick our variables: name -> (field, text, origin). Raises `SettingsError` for one that is nobody's."""
    found: dict[str, tuple[str, str, str]] = {}
    for field in Settings.__struct_fields__:
        name = variable(field)
        if name in variables:
            found[name] = (field, variables[name], source)
        if field in SECRETS and f"{field}_file" not in TYPES and f"{name}_FILE" in variables:
            if name in variables:
                raise SettingsError(f"{name} and {name}_FILE are both set; keep one of them.")
            path = variables[f"{name}_FILE"]
            found[f"{name}_FILE"] = (field, _read(path, f"{name}_FILE"), f"file {path}")
    names = [variable(field) for field in Settings.__struct_fields__]
    names += [f"{variable(field)}_FILE" for field in SECRETS]
    for name in variables:
        if name.startswith(PREFIX) and name not in names:
            bare = name.removeprefix(PREFIX)
            near = bare if bare in names else difflib.get_close_matches(name.upper(), names, 1, 0)[0]
            raise SettingsError(f"{name} is not a setting; the nearest is {near}.")
    return found


def _parsed(field: str, text: str, name: str) -> object:
    """Turn the text of a variable into the field's type."""
    value: object = text.strip()
    if isinstance(DEFAULTS[field], tuple):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    return _checked(field, value, name)


def _checked(field: str, value: object, name: str) -> object:
    try:
        return msgspec.convert(value, TYPES[field], strict=False)
    except msgspec.ValidationError as error:
        # Of a secret not even what is wrong with its value is told, only what it should be.
        if field in KEY_LISTS:
            secret = KEY_LISTS[field]
            raise SettingsError(
                f"{name} must be a list of `id:{secret}`, separated by commas; a {secret} is 43 characters."
            ) from None
        raise SettingsError(f"{name} is {quoted(value)}, but {_expectation(field, str(error))}.") from None


def _expectation(field: str, message: str) -> str:
    """Turn ``Expected `int` <= 65535`` into words for people."""
    choices = get_args(get_args(TYPES[field])[0])
    if isinstance(DEFAULTS[field], str) and choices:
        return f"must be one of {', '.join(choices)}"
    for pattern, words in (
        (r".*Expected `int`, got .*", "must be a whole number"),
        (r".*Expected `float`, got .*", "must be a number"),
        (r".*Expected `\w+` of length >= 1\b.*", "must not be"),
        (r".*Expected `\w+` of length >= (\d+).*", r"must have at least \1 characters"),
        (r".*Expected `\w+` of length <= (\d+).*", r"must have at most \1 characters"),
        (r".*Expected `\w+` >= (\d+(?:\.0*[1-9]\d*)?).*", r"must be at least \1"),
        (r".*Expected `\w+` <= (\d+(?:\.0*[1-9]\d*)?).*", r"must be at most \1"),
        (r".*Expected `\w+` > (\d+(?:\.0*[1-9]\d*)?).*", r"must be more than \1"),
    ):
        message, changed = re.subn(pattern, words, message)
        if changed:
            break
    return message


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
