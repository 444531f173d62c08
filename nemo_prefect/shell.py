"""The only code that quotes: shell words, environment names and file-safe names."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping

from nemo_prefect.errors import ConfigError

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def join(argv: Iterable[str]) -> str:
    """An argument vector as one line for a POSIX shell that gives the same vector again."""
    return shlex.join(argv)


def exports(env: Mapping[str, str]) -> str:
    """``export NAME='value'`` lines that set exactly `env`.

    Raises:
        ConfigError: a name is no environment name, or a value holds a NUL byte.
    """
    check_env(env)
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def expanding(text: str, names: str) -> str:
    """`text` as one word of a POSIX shell that gives it again, but with the variables that `names` names looked up.

    Args:
        text: what to quote; variables stand in it as ``$name`` or ``${name}``.
        names: a regular expression of the variables' names; all others stay as they are.
    """
    parts = re.split(rf"\$(?:\{{((?:{names}))\}}|((?:{names}))(?![A-Za-z0-9_]))", text)
    word = ""
    for literal, braced, bare in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        word += (shlex.quote(literal) if literal else "") + f'"${{{braced or bare}}}"'
    return word + (shlex.quote(parts[-1]) if parts[-1] or not word else "")


def check_env(env: Mapping[str, str]) -> None:
    """Refuse what no process environment can hold.

    Raises:
        ConfigError: a name is not ``[A-Za-z_][A-Za-z0-9_]*``, or a value is no text or holds a NUL byte.
    """
    for name, value in env.items():
        if not _ENV_NAME.match(name):
            raise ConfigError(
                f"{name!r} cannot be the name of an environment variable.",
                hint="Use letters, digits and underscores only, and no digit first.",
            )
        if not isinstance(value, str):
            raise ConfigError(
                f"The environment variable {name} has the value {value!r}, which is no text.", hint="Pass a str."
            )
        if "\0" in value:
            raise ConfigError(f"The value of the environment variable {name} holds a NUL byte.", hint="Remove it.")


def check_name(kind: str, name: str) -> str:
    """`name`, if it can name a directory, a Prefect flow and a job at once.

    Raises:
        ConfigError: it is empty, holds a slash, one of ``%&<>`` or a control character, or is too long or ``.`` or ``..``.
    """
    if not name.strip() or name in (".", ".."):
        raise ConfigError(f"{name!r} cannot be the {kind}.", hint="Give it at least one letter or digit.")
    if bad := _CONTROL.search(name) or re.search(r"[/%&<>]", name):
        raise ConfigError(
            f"The {kind} {name!r} holds {bad.group()!r}.",
            hint=f"It names a directory and a Prefect object: try {slug(name)!r}.",
        )
    if len(name.encode()) > 200:
        raise ConfigError(f"The {kind} {name[:40]!r}… is longer than 200 bytes.", hint="Shorten it.")
    return name


def slug(text: str, limit: int = 200) -> str:
    """`text` with everything but letters, digits and ``._-`` made ``-``; what was changed stays unique by a digest."""
    safe = _UNSAFE.sub("-", text).strip("-.")
    if safe == text and 0 < len(safe) <= limit:
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe[: limit - 9]}-{digest}" if safe else digest
