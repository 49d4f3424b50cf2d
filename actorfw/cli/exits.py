"""What becomes of a command's errors: an exit status, and words that say what to do next. All of it goes to stderr."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any, Final

import cyclopts

from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerLostError,
    PeerUnreachableError,
    ProtocolError,
    UsageError,
    VersionMismatchError,
)

__all__ = ["FAILED", "INTERRUPTED", "NOT_ALLOWED", "NO_CLUSTER", "OK", "USAGE", "say", "status_of"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_CLUSTER: Final = 3
NOT_ALLOWED: Final = 4
INTERRUPTED: Final = 130  # 128 and the number of SIGINT, as shells have it

_OTHER_SECRET: Final = (
    "Give the cluster's secret: --secret-file PATH, or ACTORFW_SECRET_FILE. `actorfw doctor` tells which you have"
)
_OTHER_KEYS: Final = "Give certificates of the cluster's authority: --tls-certificate, --tls-key, --tls-authority"
_NO_NODE: Final = "Start one with `actorfw start`, or name one that runs with --seed HOST:PORT or ACTORFW_SEEDS"
_OTHER_VERSION: Final = "Run this command with the Python and actorfw of the cluster"
_NOT_OURS: Final = "See that --seed and --cluster name what you mean"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def say(what: object, status: int = OK) -> int:
    """A line for people; returns the status."""
    print(f"actorfw: {what}", file=sys.stderr, flush=True)
    return status


def status_of(work: Callable[[], Any]) -> int:
    """Do the work of a command, and turn what it raises into its status."""
    try:
        status = work()
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        command = " ".join(["actorfw", *(error.command_chain or ()), "--help"])
        return say(f"{error}\nTry: {command}", USAGE)
    except AuthenticationError as error:
        about_keys = any(word in str(error) for word in ("TLS", "certificate"))
        return say(f"{error}\n{_OTHER_KEYS if about_keys else _OTHER_SECRET}", NOT_ALLOWED)
    except VersionMismatchError as error:
        return say(f"{error}\n{_OTHER_VERSION}", NO_CLUSTER)
    except (PeerUnreachableError, PeerLostError) as error:
        return say(f"{error}\n{_NO_NODE}", NO_CLUSTER)
    except ProtocolError as error:
        return say(f"{error}\n{_NOT_OURS}", NO_CLUSTER)
    except UsageError as error:
        return say(error, USAGE)
    except ActorFwError as error:
        kind = type(error)
        return say(error if kind is ActorFwError else f"{kind.__name__}: {error}", FAILED)
    except KeyboardInterrupt:
        return say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not try to write the rest when it exits.
        sys.stdout = None
        return OK
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        sys.stdout = None  # as above
        return say(f"the output can't be written: {error.strerror}", FAILED)
    return status if isinstance(status, int) else OK
