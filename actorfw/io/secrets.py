"""Where a node's secret comes from, and that it is fit for its use.

An argument, `ACTORFW_SECRET` or the file that `ACTORFW_SECRET_FILE` names; each is one secret or, while rotating, the
new and the old. Otherwise a file of the user's own, made at first use, so that one user's processes on one machine
find each other and other users stay out. A secret never appears in a message, a repr, a log or the variables of a
traceback: whatever holds one is a `core.handshake.Secret`, and what finds fault with one returns it instead of raising.

Of a secret that somebody brings along only two things can be told: that it is long enough, and that it is not one
letter again and again. Whether it is random can't be seen. Those made here are.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias, cast

from actorfw.core.handshake import Secret
from actorfw.io.tcp import is_loopback, split_address
from actorfw.values.errors import UsageError

__all__ = [
    "MIN_SECRET_BYTES",
    "SECRET_VARIABLES",
    "SecretArgument",
    "Secrets",
    "child_environment",
    "exposed_to",
    "hidden",
    "load_secrets",
    "make_secret_text",
    "secret_path",
]

logger = logging.getLogger("actorfw.peers")

MIN_SECRET_BYTES: Final = 16
_LEAST_VARIETY: Final = 6
"""Different bytes in a secret. Of 16 random hexadecimal digits so few differ once in 30,000 times; of 32, never."""
SECRET_VARIABLES: Final = ("ACTORFW_SECRET",)
"""Of the environment, which hold a secret: processes that run others' code don't inherit them."""
_MOST_BYTES: Final = 64 * 1024  # of a secret file
_MADE_BYTES: Final = 32
_MAX_SECRETS: Final = 8

SecretArgument: TypeAlias = str | bytes | Sequence[str | bytes] | None


class Secrets(tuple[Secret, ...]):
    """Secrets, the preferred one first, that don't show in a repr."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("secrets can't be pickled: they stay in their process")

    def __repr__(self) -> str:
        return f"<{len(self)} secret{'s' if len(self) != 1 else ''}>"

    __str__ = __repr__


def load_secrets(
    argument: SecretArgument = None,
    *,
    listen: str = "127.0.0.1:0",
    folder: str | None = None,
    environ: Mapping[str, str] | None = None,
    token: Callable[[int], bytes] = os.urandom,
) -> Secrets:
    """The secrets of a node.

    Args:
        argument: what the user gave: one, or (new, old); None asks the environment, then the user's own file.
        listen: the address that the node will listen at; beyond loopback the secret must be given.
        folder: where this user's nodes find each other: has the user's own file if there is no home to write to.
        environ: the environment; None means the process's.
        token: makes random bytes.

    Raises:
        UsageError: a secret is too short, of the wrong type, can't be read, or is missing where it is needed.
    """
    if argument is not None:
        return _checked(hidden(argument), "secret=")
    if given := _variable(environ, "ACTORFW_SECRET"):
        return _checked(hidden(_split(given)), "ACTORFW_SECRET")
    if path := _variable(environ, "ACTORFW_SECRET_FILE"):
        return _checked(_of_file(os.fsdecode(path)), f"the secret file {os.fsdecode(path)}")
    if not is_loopback(split_address(listen)[0]):
        raise UsageError(
            f"listening at {listen}, beyond this machine, needs a secret: give secret=, ACTORFW_SECRET or "
            f"ACTORFW_SECRET_FILE, at least {MIN_SECRET_BYTES} random bytes, the same on every node "
            f"(`actorfw secret` makes one)"
        )
    return Secrets((_own(secret_path(environ), folder, token),))


def hidden(argument: object) -> tuple[Any, ...]:
    """What was given as `secret=`, in a form that shows nothing of it. It may be unfit: `load_secrets` says so."""
    parts: Sequence[object]
    if isinstance(argument, (str, bytes)) or not isinstance(argument, Sequence):
        parts = [argument]
    else:
        parts = cast("Sequence[object]", argument)
    found: list[object] = []
    for part in parts:
        if isinstance(part, str):
            part = part.strip().encode("utf-8", "surrogateescape")  # bytes are taken as they are
        found.append(Secret(part) if isinstance(part, bytes) else part)
    return tuple(found)


def make_secret_text(token: Callable[[int], bytes] = os.urandom) -> str:
    """A new random secret, as text: 64 hexadecimal digits."""
    return token(_MADE_BYTES).hex()


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for processes that run others' code, or get their secret in another way: without any."""
    env = os.environ if environ is None else environ
    return {name: value for name, value in env.items() if name not in SECRET_VARIABLES}


def exposed_to(path: str) -> str:
    """Who but its owner can read a file of this user's; "" if nobody can, or the file is somebody else's."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return _exposed(status)


def _exposed(status: os.stat_result) -> str:
    # What an orchestrator mounts into a container belongs to root and may be open to all who are in there: nothing that
    # the user of this process could change.
    if os.name != "posix" or status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
        return ""
    return "all users of this machine" if status.st_mode & 0o004 else "its group" if status.st_mode & 0o040 else ""


def secret_path(environ: Mapping[str, str] | None = None) -> str:
    """The user's own secret file, whether or not it is there yet."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_CONFIG_HOME")
    if not base or not os.path.isabs(base):
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "actorfw", "secret")


def _variable(environ: Mapping[str, str] | None, name: str) -> Secret:
    # The environment itself is no variable of any function that raises: its repr holds all of it.
    return Secret((os.environ if environ is None else environ).get(name, "").encode("utf-8", "surrogateescape"))


def _split(text: Secret) -> list[bytes]:
    return [part.strip() for part in text.split(b",") if part.strip()]


def _checked(parts: tuple[object, ...], where: str) -> Secrets:
    if not 1 <= len(parts) <= _MAX_SECRETS:
        raise UsageError(f"{where} holds {len(parts)} secrets; give one, or (new, old) while rotating")
    for part in parts:
        problem = _problem(part)
        if problem:
            raise UsageError(f"{where} holds {problem}")
    return Secrets(cast("tuple[Secret, ...]", parts))


def _problem(part: object) -> str:
    """Why this is no secret; "" if it may be one."""
    if not isinstance(part, bytes):
        return f"a {type(part).__name__}; a secret is text or bytes, or (new, old)"
    size = len(part)
    if size < MIN_SECRET_BYTES:
        return f"a secret of {size} bytes; it needs at least {MIN_SECRET_BYTES}, random (`actorfw secret` makes one)"
    variety = len(set(part))
    if variety < _LEAST_VARIETY:
        return f"a secret of {variety} different bytes only, which is not random (`actorfw secret` makes one)"
    return ""


def _of_file(path: str) -> tuple[object, ...]:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            text = Secret(file.read(_MOST_BYTES))
    except OSError as error:
        raise UsageError(f"the secret file {path} (ACTORFW_SECRET_FILE) can't be read: {error.strerror}") from error
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & 0o022:
        raise UsageError(
            f"the secret file {path} (ACTORFW_SECRET_FILE) can't be trusted: others than its owner may write it; "
            f"chmod 600 it"
        )
    readers = _exposed(status)
    if readers:
        logger.warning("the secret file %s can be read by %s: chmod 600 it", path, readers)
    return tuple(Secret(line.strip()) for line in text.splitlines() if line.strip())


def _own(path: str, folder: str | None, token: Callable[[int], bytes]) -> Secret:
    secret = _read_own(path)
    if secret is not None:
        return secret
    fresh = Secret(make_secret_text(token).encode())
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _write_own(path, fresh, token)
    except OSError:
        # No home to write to, as users of services have none.
        return fresh if folder is None else _own(os.path.join(folder, "secret"), None, token)
    return _read_own(path) or fresh


def _write_own(path: str, secret: Secret, token: Callable[[int], bytes]) -> None:
    # Complete under another name first, then linked: of two first users one links, and the other reads what it did.
    draft = os.path.join(os.path.dirname(path), f".secret-{token(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(b"%b\n" % bytes(secret))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(draft)


def _read_own(path: str) -> Secret | None:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        if not os.path.lexists(path):
            return None  # the folder is closed to us: as if we had no home
        raise _unfit(path, "it can't be read by you") from error
    except OSError as error:
        raise _unfit(path, error.strerror or "it can't be opened") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(path, "it is not a plain file")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise _unfit(path, "it belongs to another user")
        if os.name == "posix" and status.st_mode & 0o077:
            raise _unfit(path, "others may read or write it (its mode must be 0600)")
        secret = Secret(file.read(4096).strip())
    if len(secret) < MIN_SECRET_BYTES:
        raise _unfit(path, f"it holds less than {MIN_SECRET_BYTES} bytes")
    return secret


def _unfit(path: str, why: str) -> UsageError:
    return UsageError(f"your secret file {path} can't be used: {why}. Remove it and a new one is made, or give secret=")
