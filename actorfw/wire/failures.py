"""Exceptions over the wire: what was raised over there is raised here, as its own type, with all that led to it.

By the rules of the public contract: an `Exception` keeps its type, `__cause__`, `__context__`, notes and groups, and
the last link of its cause chain is the remote traceback. What would harm the caller's own control flow
(`SystemExit`, `CancelledError`, ...), what is an infrastructure error of the other side, and what can't be rebuilt
here arrives as `TaskError`. How one exception is taken apart and built again is told in `rebuild`.
"""

from __future__ import annotations

import asyncio
import pickle
import traceback
from dataclasses import field
from typing import Any, Final, TypeAlias, cast

from actorfw.values.data import Data
from actorfw.values.errors import ActorFwError, SerializationError, TaskError
from actorfw.values.ids import WireRef
from actorfw.wire.codec import Codec
from actorfw.wire.payload import Packed, Part, WireValue
from actorfw.wire.rebuild import attributes_of, restore

__all__ = ["RemoteTraceback", "pack_error", "unpack_error"]

# A traceback text longer than this loses its middle.
_LONGEST_TEXT: Final = 64 * 1024
# What an exception drags along in its chain and groups; above, the rest is only in the text.
_MOST_RECORDS: Final = 256
# They are Exceptions, and yet mean something to the loop or the generator that they are raised in.
_CONTROL_FLOW: Final = (StopIteration, StopAsyncIteration, asyncio.CancelledError)

_SINGLE: Final = 0
_GROUP: Final = 1

_Fields: TypeAlias = list[Any]


class RemoteTraceback(Exception):  # noqa: N818  (it is evidence, not an error)
    """The traceback of the process that an exception comes from, as the last link of the exception's cause chain.

    Attributes:
        text: what that process would have printed.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class _Record(Data, frozen=False):
    """One exception of the graph. What it leads to is named by number, so that circles are no problem."""

    form: int
    name: str
    text: str
    notes: list[str]
    wrap: str = ""  # why this can't be raised over there as itself; then it is the cause of a TaskError
    cause: int = -1
    context: int = -1
    suppress: bool = False
    parts: list[int] = field(default_factory=list[int])
    remote: str = ""
    packed: Packed | None = None  # without it, name, text and notes are all there is

    def fields(self) -> _Fields:
        packed = self.packed
        return [
            self.form, self.name, self.text, self.notes, self.wrap, self.cause, self.context, self.suppress,
            self.parts, self.remote,
            *((packed.data, len(packed.buffers), len(packed.refs), len(packed.codes)) if packed else (b"", 0, 0, 0)),
        ]  # fmt: skip


def pack_error(codec: Codec, error: BaseException, *, where: str, infrastructure: bool = False) -> WireValue:
    """Turn what user code raised into what travels. Never raises.

    Args:
        codec: packs the exceptions.
        error: what was raised.
        where: what it was raised in, for messages: "task square (process 4711, node alpha)".
        infrastructure: whether actorfw itself made it, so that an `ActorFwError` travels as itself.
    """
    try:
        records = _Writer(codec, where, infrastructure).write(error)
    except Exception as failure:  # an exception whose own methods fail, or groups nested without end
        note = f"It arrives as text, because it can't be taken apart: {_shown(failure)}"
        records = [_Record(_SINGLE, _name(type(error)), _text(error), [note])]
    buffers: list[Part] = []
    refs: list[WireRef] = []
    codes: list[bytes] = []
    holds: list[Any] = []
    for record in records:
        if record.packed is not None:
            buffers += record.packed.buffers
            refs += record.packed.refs
            codes += record.packed.codes
            holds += record.packed.hold or [None] * len(record.packed.refs)
    data = pickle.dumps([record.fields() for record in records], 5)
    if not (buffers or refs or codes):
        return data
    packed = Packed(data, buffers, refs, codes)
    packed.hold = holds if any(hold is not None for hold in holds) else None
    return packed


def unpack_error(codec: Codec, wire: WireValue) -> Exception:
    """Make the exception to raise here: a new one each time, so that no two awaits share a traceback. Never raises."""
    try:
        packed = Packed.from_wire(wire) if isinstance(wire, list) else wire
        if isinstance(packed, bytes):
            packed = Packed(packed, [], [], [])
        return _Reader(codec, cast("Packed", packed)).read()
    except Exception as failure:  # what is left must be an error that can be raised
        return TaskError(f"the other side reported a failure that can't be read here: {_shown(failure)}")


class _Writer:
    def __init__(self, codec: Codec, where: str, infrastructure: bool) -> None:
        self._codec = codec
        self._where = where
        self._infrastructure = infrastructure
        self._records: list[_Record] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[BaseException] = []  # keeps ids unique
        self._waiting: list[tuple[BaseException, int]] = []

    def write(self, root: BaseException) -> list[_Record]:
        self._enter(root, raised=True)
        # Links one after another, not by recursion: a chain can be long.
        while self._waiting:
            error, number = self._waiting.pop()
            record = self._records[number]
            record.suppress = error.__suppress_context__
            record.cause = self._link(error.__cause__)
            record.context = self._link(error.__context__)
        return self._records

    def _link(self, error: BaseException | None) -> int:
        # What came from yet another process ends in its text, which is part of the text that is made here.
        if error is None or isinstance(error, RemoteTraceback) or len(self._records) >= _MOST_RECORDS:
            return -1
        return self._enter(error, raised=False)

    def _enter(self, error: BaseException, *, raised: bool) -> int:
        known = self._numbers.get(id(error))
        if known is not None:
            return known
        number = len(self._records)
        record = _Record(_SINGLE, _name(type(error)), _text(error), _notes(error))
        self._records.append(record)
        self._numbers[id(error)] = number
        self._kept.append(error)
        if raised:
            record.wrap = self._why_not_raised(error)
            record.remote = self._remote_text(error)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            record.form, record.text = _GROUP, group.message
            parts = group.exceptions[: max(1, _MOST_RECORDS - number)]
            record.parts = [self._enter(part, raised=raised) for part in parts]
            self._pack(record, (type(group), group.message, attributes_of(group)))
        else:
            self._pack(record, error)
        self._waiting.append((error, number))
        return number

    def _pack(self, record: _Record, value: object) -> None:
        try:
            wire = self._codec.pack(value, where=record.name)
        except Exception as failure:  # pickling runs user code
            record.notes.append(f"It arrives as text, because {failure}")
            return
        record.packed = wire if isinstance(wire, Packed) else Packed(cast("bytes", wire), [], [], [])

    def _why_not_raised(self, error: BaseException) -> str:
        if isinstance(error, ActorFwError) and not isinstance(error, TaskError):
            if self._infrastructure:
                return ""
            return f"{self._where} failed with an infrastructure error of its own, {_name(type(error))}: {_text(error)}"
        if isinstance(error, BaseExceptionGroup):
            return ""  # each of its parts is judged by itself
        if not isinstance(error, Exception) or isinstance(error, _CONTROL_FLOW):
            return f"{self._where} raised {_shown(error)}, which would end or confuse what waits for it here"
        return ""

    def _remote_text(self, error: BaseException) -> str:
        if self._infrastructure and error.__traceback__ is None:
            return ""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_globals):
            trace = trace.tb_next
        try:
            lines = traceback.format_exception(type(error), error, trace)
        except Exception as failure:  # formatting runs the exception's own methods
            lines = [f"{_shown(error)} (its traceback can't be shown: {_shown(failure)})\n"]
        text = "".join(lines)
        if len(text) > _LONGEST_TEXT:
            half = _LONGEST_TEXT // 2
            text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
        return f"In {self._where}:\n{text}"


class _Reader:
    def __init__(self, codec: Codec, packed: Packed) -> None:
        self._codec = codec
        self._packed = packed
        self._records: list[_Record] = []
        self._errors: dict[int, BaseException] = {}
        self._raised: dict[int, BaseException] = {}

    def read(self) -> Exception:
        rows = cast("list[_Fields]", pickle.loads(self._packed.data))
        self._take_apart(rows)
        for number in range(len(rows)):
            self._build(number)
        for number, record in enumerate(self._records):
            error = self._errors[number]
            error.__context__ = self._errors[record.context] if record.context >= 0 else None
            error.__cause__ = self._errors[record.cause] if record.cause >= 0 else None
            error.__suppress_context__ = record.suppress
        for number in range(len(rows) - 1, -1, -1):  # the leaves of a group before the group
            remote = self._records[number].remote
            if remote:
                _append(self._errors[number], RemoteTraceback(remote))
        root = self._raised[0]
        return root if isinstance(root, Exception) else _wrapped(f"a {self._records[0].name} arrived", root)

    def _take_apart(self, rows: list[_Fields]) -> None:
        buffers = refs = codes = 0
        for row in rows:
            data, some_buffers, some_refs, some_codes = row[10:]
            record = _Record(*row[:10])
            if data:
                record.packed = Packed(
                    data,
                    self._packed.buffers[buffers : buffers + some_buffers],
                    self._packed.refs[refs : refs + some_refs],
                    self._packed.codes[codes : codes + some_codes],
                )
            buffers, refs, codes = buffers + some_buffers, refs + some_refs, codes + some_codes
            self._records.append(record)

    def _build(self, number: int) -> BaseException:
        """What stands for this exception where it is raised: itself, or the `TaskError` whose cause it is."""
        known = self._raised.get(number)
        if known is not None:
            return known
        record = self._records[number]
        error = self._errors[number] = self._rebuilt(record)
        return self._raised.setdefault(number, _wrapped(record.wrap, error) if record.wrap else error)

    def _rebuilt(self, record: _Record) -> BaseException:
        try:
            if record.form == _GROUP:
                return self._rebuilt_group(record)
            if record.packed is not None:
                error = self._codec.unpack(record.packed)
                if isinstance(error, BaseException):
                    return error
                raise SerializationError(f"{record.name} was rebuilt as {type(error).__name__}, which is no exception")
        except Exception as failure:  # unpickling runs user code
            record.notes.append(f"It arrives as text, because {failure}")
        return _noted(TaskError(f"{record.name}: {record.text}"), record.notes)

    def _rebuilt_group(self, record: _Record) -> BaseException:
        parts = [self._build(part) for part in record.parts]
        if record.packed is not None:
            try:
                cls, message, state = self._codec.unpack(record.packed)
                group: BaseException = BaseExceptionGroup.__new__(cls, message, parts)
                restore(group, state)
                return group
            except Exception as failure:  # likewise
                record.notes.append(f"It is no {record.name} here, because {failure}")
        return _noted(BaseExceptionGroup(record.text, parts), record.notes)


def _noted(error: BaseException, notes: list[str]) -> BaseException:
    for note in notes:
        error.add_note(note)
    return error


def _wrapped(message: str, error: BaseException) -> TaskError:
    task_error = TaskError(message)
    task_error.__cause__ = error
    return task_error


def _append(error: BaseException, last: BaseException) -> None:
    """Put a link at the end of the cause chain, without hiding the context of the one that was last."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        if isinstance(error.__cause__, RemoteTraceback):
            return
        error = error.__cause__
        seen.add(id(error))
    suppress = error.__suppress_context__
    error.__cause__ = last
    error.__suppress_context__ = suppress


def _is_ours(namespace: dict[str, Any]) -> bool:
    name = namespace.get("__name__")
    return isinstance(name, str) and name.startswith(("actorfw.runtime.", "actorfw.api."))


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST_TEXT]
    except Exception as failure:
        return f"<str() failed with {type(failure).__name__}>"


def _shown(error: BaseException) -> str:
    return f"{_name(type(error))}({_text(error)})"


def _notes(error: BaseException) -> list[str]:
    notes: Any = getattr(error, "__notes__", None)
    return [str(note) for note in notes] if isinstance(notes, list) else []
