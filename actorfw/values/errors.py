"""Every error that actorfw itself raises, and what each tells about the work it ended.

Each error answers three questions: whose fault was it, did the work run (`.ran`), and may I try again. A user's own
exception is never one of these: it arrives as its own type, so `except ActorFwError` means infrastructure.

    ActorFwError
     |- UsageError                       you called it wrong
     |   |- NotInitializedError          no node runs here
     |   `- BlockingCallError            blocking here would stop a loop: use await
     |- NodeClosedError                  this node is shutting down
     |- TaskCancelledError               someone cancelled it (never asyncio.CancelledError from afar)
     |- DeadlineExceededError            also TimeoutError
     |- GetTimeoutError                  also TimeoutError; the work goes on
     |- WorkerDiedError                  the process that ran the task is gone
     |- NodeDiedError                    the node that ran the task is gone
     |- PeerUnreachableError             never sent: safe to retry
     |- PeerLostError                    sent, outcome unknown
     |- ActorDiedError                   final
     |- ActorUnavailableError            may come back
     |- ActorNotFoundError               also LookupError
     |- ActorExistsError                 also ValueError
     |- MailboxFullError
     |- NoQuorumError
     |- OverloadedError
     |- DeadlockError
     |- ObjectLostError
     |   `- OwnerDiedError
     |- ObjectStoreFullError
     |- SerializationError               names the path to the part that can't travel
     |- UnschedulableError
     |- AuthenticationError
     |- ProtocolError
     |   `- VersionMismatchError
     `- TaskError                        carries what can't be raised here as itself
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ActorDiedError",
    "ActorExistsError",
    "ActorFwError",
    "ActorNotFoundError",
    "ActorUnavailableError",
    "AuthenticationError",
    "BlockingCallError",
    "DeadlineExceededError",
    "DeadlockError",
    "GetTimeoutError",
    "MailboxFullError",
    "NoQuorumError",
    "NodeClosedError",
    "NodeDiedError",
    "NotInitializedError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OverloadedError",
    "OwnerDiedError",
    "PeerLostError",
    "PeerUnreachableError",
    "ProtocolError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "UnschedulableError",
    "UsageError",
    "VersionMismatchError",
    "WorkerDiedError",
]


class ActorFwError(Exception):
    """The root of infrastructure errors.

    Args:
        message: what happened, where, why, and what to do. Empty means the class's own first docstring line.
        ran: whether the work had started: False for never, None for not known, True where it certainly ran.

    Attributes:
        ran: as given, else the class's default.
    """

    default_ran: ClassVar[bool | None] = None
    ran: bool | None

    def __init__(self, message: str = "", *, ran: bool | None = None) -> None:
        if not message:
            message = (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        super().__init__(message)
        self.ran = self.default_ran if ran is None else ran

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[ActorFwError], args: tuple[Any, ...], state: dict[str, Any]) -> ActorFwError:
    # Not through __init__: subclasses take other arguments than what `args` keeps.
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(ActorFwError):
    """The call was wrong: nothing was done."""

    default_ran: ClassVar[bool | None] = False


class NotInitializedError(UsageError):
    """No node runs here: call actorfw.init() first."""


class BlockingCallError(UsageError):
    """Blocking here would stop an event loop: use await."""


class NodeClosedError(ActorFwError):
    """This node is closed or closing."""


class TaskCancelledError(ActorFwError):
    """The call was cancelled."""


class DeadlineExceededError(ActorFwError, TimeoutError):
    """The call's deadline passed."""


class GetTimeoutError(ActorFwError, TimeoutError):
    """The value did not come within the timeout of get(); the work goes on."""


class WorkerDiedError(ActorFwError):
    """The worker process that ran the task ended.

    Attributes:
        out_of_memory: whether its node stopped it because memory was short.
    """

    def __init__(self, message: str = "", *, out_of_memory: bool = False, ran: bool | None = None) -> None:
        super().__init__(message, ran=ran)
        self.out_of_memory: bool = out_of_memory


class NodeDiedError(ActorFwError):
    """The node that ran the task died."""


class PeerUnreachableError(ActorFwError):
    """The peer could not be reached and nothing was sent: it is safe to try again."""

    default_ran: ClassVar[bool | None] = False


class PeerLostError(ActorFwError):
    """The link to the peer was lost after the call was sent: whether it ran is not known."""


class ActorDiedError(ActorFwError):
    """The actor has ended for good.

    Attributes:
        reason: one word: stopped, killed, exited, released, crashed, node_died, owner_died, ...
    """

    def __init__(self, message: str = "", *, reason: str = "unknown", ran: bool | None = None) -> None:
        super().__init__(message, ran=ran)
        self.reason: str = reason


class ActorUnavailableError(ActorFwError):
    """The actor can't answer now, but may come back."""


class ActorNotFoundError(ActorFwError, LookupError):
    """No actor has this name."""

    default_ran: ClassVar[bool | None] = False


class ActorExistsError(ActorFwError, ValueError):
    """Another actor has this name."""

    default_ran: ClassVar[bool | None] = False


class MailboxFullError(ActorFwError):
    """There is no room for the call: nothing was queued."""

    default_ran: ClassVar[bool | None] = False


class NoQuorumError(ActorFwError):
    """Too few voters can be reached to decide."""

    default_ran: ClassVar[bool | None] = False


class OverloadedError(ActorFwError):
    """This node's queues are full: nothing was queued."""

    default_ran: ClassVar[bool | None] = False


class DeadlockError(ActorFwError):
    """Actors wait for each other in a circle."""


class ObjectLostError(ActorFwError):
    """The value is gone and can't be made again."""


class OwnerDiedError(ObjectLostError):
    """The node that owned the object died."""


class ObjectStoreFullError(ActorFwError):
    """Memory and disk for objects are both full."""

    default_ran: ClassVar[bool | None] = False


class SerializationError(ActorFwError):
    """A value can't be pickled or unpickled.

    Attributes:
        path: where in the value the part stands that can't travel, such as "args[1].db.conn"; empty if unknown.
    """

    def __init__(self, message: str = "", *, path: str = "", ran: bool | None = None) -> None:
        super().__init__(message, ran=ran)
        self.path: str = path


class UnschedulableError(ActorFwError):
    """No node of the cluster can ever run this."""

    default_ran: ClassVar[bool | None] = False


class AuthenticationError(ActorFwError):
    """The peer does not know this cluster's secret."""

    default_ran: ClassVar[bool | None] = False


class ProtocolError(ActorFwError):
    """A peer broke the protocol."""


class VersionMismatchError(ProtocolError):
    """The peer speaks another protocol version or runs another minor version of Python."""

    default_ran: ClassVar[bool | None] = False


class TaskError(ActorFwError):
    """The task ended with something that can't be raised here as itself; `__cause__` is it, or its text."""

    default_ran: ClassVar[bool | None] = True
