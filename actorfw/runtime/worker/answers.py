"""How calls end: results, items and errors of tasks and methods on their way into the outbox."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core import credit
from actorfw.core.credit import Allowance
from actorfw.runtime.context import overdue
from actorfw.runtime.driving import Unsendable, pack_item
from actorfw.runtime.exits import Interrupted
from actorfw.runtime.refs import ObjectRef
from actorfw.values.errors import ActorFwError, ObjectStoreFullError, SerializationError, TaskCancelledError, TaskError
from actorfw.wire.failures import pack_error
from actorfw.wire.messages import ERROR, ITEM, PARTS, RESULT, VALUE
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.runtime.worker.child import Worker

__all__ = ["PACKING", "PREPARING", "RUNNING", "Answers", "ArgumentError", "Credit"]

# Whose fault an error is: in the middle it is the user's code that raised, before and after it is us who tell.
PREPARING: Final = 0
RUNNING: Final = 1
PACKING: Final = 2


class ArgumentError(Exception):
    """An argument is itself an error, packed: the call fails with it and does not run."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out


class Credit(Allowance):
    """What a generator may still send. Changed under the line's lock.

    Attributes:
        wake: called when that changes, if somebody waits.
    """

    __slots__ = ("wake",)

    def __init__(self, credit: credit.Credit) -> None:
        super().__init__(credit)
        self.wake: Callable[[], object] | None = None

    def add(self, items: int) -> None:
        """The consumer took items, or with a negative number went away."""
        self.taken(items)
        if self.wake is not None:
            self.wake()


class Answers:
    """Packs outcomes. Any thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._codec = worker.codec
        self._outbox = worker.line.outbox
        self._lock = worker.line.lock

    def value(self, no: int, name: str, value: Any, parts: int) -> None:
        """A call returned.

        Raises:
            SerializationError: the value can't be sent.
            TaskError: it has not the parts that were asked for.
        """
        if parts == 1:
            out = self._codec.pack(value, where="result")
            if type(out) is Packed and out.codes:
                self._worker.ship_with(out)
            self._outbox.append((RESULT, no, VALUE, out, None))
            return
        outs: list[Any] = []
        if parts:
            try:
                values = list(value)
            except TypeError:
                raise TaskError(
                    f"{name} was asked for num_returns={parts} and returned {type(value).__name__}"
                ) from None
            if len(values) != parts:
                raise TaskError(f"{name} was asked for num_returns={parts} and returned {len(values)} values")
            for at, part in enumerate(values):
                out = self._codec.pack(part, where=f"result[{at}]")
                self._worker.ship_with(out)
                outs.append(out)
        self._outbox.append((RESULT, no, PARTS, outs, None))

    def item(self, no: int, index: int, item: Any, credit: Credit) -> None:
        """A generator yielded.

        Raises:
            Unsendable: the item can't be sent.
        """
        if not credit.wants(index):
            return
        out = pack_item(self._codec, item)
        self._worker.ship_with(out)
        self._outbox.append((ITEM, no, index, out))
        with self._lock:
            credit.sent(size_of(out))

    def raised(self, no: int, name: str, error: BaseException, stage: int, deadline: float | None = None) -> None:
        """A call ended with an exception, the user's or ours."""
        if isinstance(error, Unsendable):
            error, stage = error.cause, PACKING
        if isinstance(error, Interrupted):
            self.failed(no, TaskCancelledError(f"{name} was cancelled while it ran"))
        elif isinstance(error, ArgumentError):
            self._outbox.append((RESULT, no, ERROR, error.out, None))
        elif (late := overdue(name, error, deadline, self._worker.time())) is not None and stage == RUNNING:
            self.failed(no, late)
        elif isinstance(error, ActorFwError) and stage != RUNNING:
            if isinstance(error, (SerializationError, ObjectStoreFullError)):
                error.ran = stage == PACKING
            self.failed(no, error)
        else:
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next or error.__traceback__  # less our own frame
            out = pack_error(self._codec, error, where=f"{name} in process {os.getpid()}")
            self._worker.ship_with(out)
            self._outbox.append((RESULT, no, ERROR, out, None))

    def failed(self, no: int, error: BaseException) -> None:
        """A call ended with an error of ours."""
        self._outbox.append((RESULT, no, ERROR, self.packed(error), None))

    def packed(self, error: BaseException, *, infrastructure: bool = True) -> Any:
        """An error as it travels."""
        out = pack_error(self._codec, error, where=f"process {os.getpid()}", infrastructure=infrastructure)
        self._worker.ship_with(out)
        return out

    def ahead(self, deps: list[Any] | None) -> list[ObjectRef[Any]] | None:
        """The refs whose values came ahead of a call; to be taken for each call, whatever becomes of it."""
        if not deps:
            return None
        take = self._worker.objects.dep
        return [take((dep[0], dep[1])) for dep in deps]

    def arguments(self, wire: Any, held: list[ObjectRef[Any]] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Unpack the arguments of a call, with the values that came ahead of it in the places of their refs.

        Raises:
            ArgumentError: one of them is an error.
            SerializationError: they can't be unpacked.
        """
        args, kwargs = self._codec.unpack_args(wire)
        if not held:
            return args, kwargs
        for ref in held:
            if ref._state == ERROR:
                raise ArgumentError(ref._out)

        def value_of(argument: Any) -> Any:
            return argument.result() if isinstance(argument, ObjectRef) else argument

        return tuple(map(value_of, args)), {name: value_of(argument) for name, argument in kwargs.items()}
