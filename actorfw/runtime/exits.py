"""What the runtime raises inside user code to end it early. Neither is an error, and neither is an `Exception`: user
code lets them pass."""

from __future__ import annotations

__all__ = ["ActorExit", "Interrupted"]


class ActorExit(BaseException):
    """Raised by `exit_actor()` inside a method: the actor ends with the reason "exited"."""


class Interrupted(BaseException):
    """Raised in the main thread of a worker in the middle of user code: the running call was cancelled."""
