"""`Codec`: values to wire values and back, with the refs and the definitions that are found on the way.

One instance per node or worker process. What a definition looks like as bytes is `code`'s affair, what an exception
travels as when it is raised is `failures`', and what a ref means is that of those who register its type.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import socket
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

from actorfw.values.errors import ActorFwError, NodeClosedError, ObjectStoreFullError, SerializationError
from actorfw.values.ids import WireRef
from actorfw.wire import culprit
from actorfw.wire.code import CodeTable
from actorfw.wire.copying import copied
from actorfw.wire.payload import (
    SHARED_LEAST,
    Allocator,
    Buffer,
    Packed,
    Part,
    Place,
    SharedBuffer,
    WireArgs,
    WireValue,
    WritableBuffer,
)
from actorfw.wire.rebuild import reduce_exception

__all__ = ["Adopt", "Codec", "Export"]

Export: TypeAlias = Callable[[Any], tuple[WireRef, Any] | tuple[WireRef, Any, Any]]
"""From a ref-like object to its id, whatever else it needs there or None, and what keeps it alive meanwhile. Called
while a value is pickled."""

Adopt: TypeAlias = Callable[[WireRef, Any], Any]
"""From an id and the extra part to a ref-like object of the receiving process. Called while a value is unpickled."""

# Scalars that travel as they are; int and str have conditions.
_AS_IS: Final = frozenset((type(None), bool, float))
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1
# Longer text and bytes travel as buffers: they are cut into chunks there, and not copied into the pickle stream.
_LONG: Final = 1 << 16
_LONG_TYPES: Final = frozenset((str, bytes, bytearray))
# A pickle stream from this length on goes into shared memory too, as the first of the buffers; this stands in its place
# then. (As a stream of its own it would be invalid.)
_LONG_STREAM: Final = 1 << 20
_IN_BUFFER: Final = b"."

# More arguments than this are pickled, even if all are scalars: as a list they would be part of the message, which has
# a limit.
_FEW: Final = 32
# A pickler that has seen more keeps a memo table as large, which it would clear at every use.
_POOLED: Final = 1 << 16
_IDLE_PICKLERS: Final = 16

# How the types behave that neither pickle nor a class of their own describes; cloudpickle does.
_CLOUD_TYPES: Final[tuple[type, ...]] = (
    types.ModuleType,
    types.CodeType,
    types.CellType,
    types.MappingProxyType,
    property,
    classmethod,
    staticmethod,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


class Codec:
    """Packs and unpacks values. Any thread may use it, also from inside a `__reduce__` that it is calling.

    Args:
        codes: where by-value definitions are kept, and found again.

    Attributes:
        shared: gives shared memory, to which large buffers are copied; None: they are copied to the heap.
        at_once: gives it for all large buffers of a value together, where that takes long; None: one by one.
    """

    def __init__(self, codes: CodeTable) -> None:
        self.codes = codes
        self.shared: Allocator | None = None
        self.at_once: Callable[[list[int]], Sequence[WritableBuffer | None]] | None = None
        self._handlers: dict[type, Callable[[_Pickler, Any], Any]] = {
            types.FunctionType: _Pickler.reduce_definition,
            type: _Pickler.reduce_definition,
            memoryview: _Pickler.reduce_memoryview,
            _Long: _Pickler.reduce_long,
            type(functools.lru_cache(id)): _Pickler.reduce_cached_function,
        }
        for kind in _CLOUD_TYPES:
            self._handlers[kind] = _Pickler.reduce_by_cloudpickle
        self._exporters: dict[type, tuple[str, Export]] = {}
        # Types only: definitions remember their table for good, which must not lead to whoever exports.
        self._ref_types: set[type] = set()
        codes.refs = self._ref_types
        self._adopters: dict[str, Adopt] = {}
        self._resolving: set[type] = set()
        # A stack instead of a thread-local: taking and giving back are atomic, and a call inside a call just takes
        # another one.
        self._idle: list[_Pickler] = []

    def register(
        self, cls: type, export: Export, adopt: Adopt, *, resolves: bool = False, kind: str | None = None
    ) -> None:
        """Make the instances of exactly this class travel as refs.

        Args:
            cls: the class; the receiver must have registered a class of the same name.
            export: from the object to ((life, number, address), extra) or (..., hold). `extra` is pickled too, or None;
                `hold` is kept in `Packed.hold`, as long as the packed bytes.
            adopt: the other way.
            resolves: whether such an object, as an argument of its own, stands for its value (see `pack_args`).
            kind: what the stream calls it; several classes may share a kind, and its `adopt`. The class's name if None.
        """
        name = kind or cls.__name__
        if self._adopters.setdefault(name, adopt) != adopt:
            raise ValueError(f"two kinds of ref-like classes are called {name}")
        self._exporters[cls] = (name, export)
        self._ref_types.add(cls)
        self._handlers[cls] = _Pickler.reduce_ref
        if resolves:
            self._resolving.add(cls)

    def pack(self, value: object, *, where: str = "value") -> WireValue:
        """Turn a value into what travels.

        Args:
            value: anything that can be pickled.
            where: what to call it in an error ("result").

        Raises:
            SerializationError: a part can't be pickled; `.path` and the message name it.
        """
        kind = type(value)
        if kind in _AS_IS:
            return cast("bool | float | None", value)
        if kind is int:
            if _INT_MIN <= cast("int", value) <= _INT_MAX:
                return cast("int", value)
        elif kind is str:
            text = cast("str", value)
            if len(text) < _LONG:
                if text.isascii():
                    return text
            else:
                return self._pickled(_Long(text), text, where)
        elif (kind is bytes or kind is bytearray) and len(cast("bytes", value)) >= _LONG:
            return self._pickled(_Long(value), value, where)
        return self._pickled(value, value, where)

    def pack_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[WireArgs, list[Any] | None]:
        """Turn the arguments of a call into what travels.

        Returns:
            The packed arguments, and the arguments (not parts of them) of a class registered with `resolves=True`,
            which the receiver replaces by their values; None if there is none.

        Raises:
            SerializationError: a part can't be pickled; it is named as in "args[1].db.conn".
        """
        if not kwargs and len(args) <= _FEW:
            for value in args:
                kind = type(value)
                if kind is int:
                    if not _INT_MIN <= value <= _INT_MAX:
                        break
                elif kind is str:
                    if len(value) >= _LONG or not value.isascii():
                        break
                elif kind not in _AS_IS:
                    break
            else:
                return list(args), None
        deps: list[Any] | None = None
        resolving = self._resolving
        long = False
        for values in (args, kwargs.values()) if kwargs else (args,):
            for value in values:
                kind = type(value)
                if kind in resolving:
                    if deps is None:
                        deps = []
                    deps.append(value)
                elif kind in _LONG_TYPES and len(value) >= _LONG:
                    long = True
        call = (args, kwargs)
        if long:
            shortened = (tuple(map(_shorten, args)), {name: _shorten(value) for name, value in kwargs.items()})
            return self._pickled(shortened, call, ""), deps
        return self._pickled(call, call, ""), deps

    def unpack(self, wire: WireValue) -> Any:
        """Make the value again: a fresh one each time.

        Raises:
            SerializationError: it can't be made here; the message says what is missing and on which host.
        """
        kind = type(wire)
        if kind is bytes:
            try:
                return pickle.loads(cast("bytes", wire))
            except Exception as error:  # unpickling runs user code
                raise _unpack_failure(error) from error
        if kind is Packed:
            return self._unpickled(cast("Packed", wire))
        if kind is list:
            try:
                packed = Packed.from_wire(cast("list[Any]", wire))
            except ValueError as error:
                raise _unpack_failure(error) from error
            return self._unpickled(packed)
        return wire

    def unpack_args(self, wire: WireArgs) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inverse of `pack_args`.

        Raises:
            SerializationError: as `unpack`.
        """
        if type(wire) is list and (not wire or type(wire[0]) is not bytes):
            return tuple(wire), {}
        return cast("tuple[tuple[Any, ...], dict[str, Any]]", self.unpack(wire))

    def _pickled(self, value: object, original: object, where: str) -> bytes | Packed:
        try:
            pickler = self._idle.pop()
        except IndexError:
            pickler = _Pickler(self)
        try:
            pickler.dump(value)
            if self.at_once is not None and pickler.buffers:
                _place(pickler.buffers, self.at_once)
        except (NodeClosedError, ObjectStoreFullError):  # it is not the value's fault
            pickler.buffers.clear()
            raise
        except Exception as error:  # and this pickler, in whatever state it is, is not used again
            pickler.buffers.clear()  # the traceback keeps it
            failure = self._pack_failure(original, where, error, pickler.refused)
            if not where:  # the arguments of a call, which is not sent then
                failure.ran = False
            raise failure from error
        chunks = pickler.chunks
        size = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
        if size < _LONG_STREAM or not self._share_stream(pickler, size):
            data = chunks.pop() if len(chunks) == 1 else b"".join(chunks)
        else:
            data = _IN_BUFFER
        packed = pickler.take(data) if pickler.buffers or pickler.refs or pickler.codes else data
        if size < _POOLED and len(self._idle) < _IDLE_PICKLERS:
            chunks.clear()
            pickler.clear_memo()
            self._idle.append(pickler)
        return packed

    def _share_stream(self, pickler: _Pickler, size: int) -> bool:
        block = self.shared.allocate(size) if self.shared is not None else None
        if block is None:
            return False
        at = 0
        for chunk in pickler.chunks:
            block.fill(chunk, at)
            at += len(chunk)
        block.seal()
        pickler.buffers.insert(0, block)
        return True

    def _unpickled(self, packed: Packed) -> Any:
        try:
            buffers = [_readable(b) for b in packed.buffers]
            data = buffers.pop(0) if packed.data == _IN_BUFFER else packed.data
            if not packed.refs and not packed.codes:
                return pickle.loads(data, buffers=buffers)
            for code in packed.codes:
                self.codes.prepare(code)
            unpickler = _Unpickler(data, buffers, packed.refs, self)
            try:
                return unpickler.load()
            finally:
                # Its memo has methods of its own in it, and refs: they would live until the collector comes by.
                unpickler.memo.clear()
        except ActorFwError:
            raise  # it says itself what is wrong
        except Exception as error:  # unpickling runs user code
            raise _unpack_failure(error) from error

    def _adopt(self, name: str, ref: WireRef, extra: Any) -> Any:
        adopt = self._adopters.get(name)
        if adopt is None:
            raise pickle.UnpicklingError(f"nothing is registered here for refs of the kind {name!r}")
        return adopt(ref, extra)

    def _pack_failure(self, value: object, where: str, error: Exception, refused: object) -> SerializationError:
        if isinstance(error, RecursionError):
            name = where or "the arguments"
            return SerializationError(
                f"{name} can't be sent: nested more deeply than pickle can follow ({sys.getrecursionlimit()} levels). "
                f"Send it in a flat form, for instance a list of its nodes.",
                path=where,
            )

        def attempt(part: object) -> Exception | None:
            try:
                _Pickler(self, dry=True, refused=refused).dump(part)
            except Exception as failure:  # pickling runs user code: whatever it raises is the reason
                return error if isinstance(failure, _Refused) else failure
            return None

        path, part, reason = where, value, error
        if where:
            path, part, reason = culprit.find(value, where, error, attempt)
        else:
            args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", value)
            named = [(f"args[{i}]", a) for i, a in enumerate(args)]
            named += [(f"kwargs[{name!r}]", a) for name, a in kwargs.items()]
            for name, argument in named:
                failure = attempt(argument)
                if failure is not None:
                    path, part, reason = culprit.find(argument, name, failure, attempt)
                    break
        if isinstance(reason, ActorFwError):
            return SerializationError(f"{path or 'the arguments'} can't be sent: {reason}", path=path)
        cls = type(part)
        return SerializationError(
            f"{path or 'the arguments'} (of type {cls.__module__}.{cls.__qualname__}) can't be sent: "
            f"{type(reason).__name__}: {reason}. Send what it is made from and make it on the other side, "
            f"or leave it out with __getstate__ in the class that holds it.",
            path=path,
        )


class _Pickler(pickle.Pickler):
    """A C pickler that is used many times; what it finds beside the stream collects in its lists."""

    chunks: list[bytes]
    buffers: list[Part]
    refs: list[WireRef]
    codes: list[bytes]

    def __init__(self, codec: Codec, *, dry: bool = False, refused: object = None) -> None:
        # No method of this object is handed to the base class: a circle would keep it until the next gc run.
        chunks: list[bytes] = []
        buffers: list[Part] = []
        super().__init__(
            cast("Any", _Sink(_discard if dry else chunks.append)),
            5,
            buffer_callback=_discard if dry else _keeper(codec, buffers),
        )
        self.chunks = chunks
        self.buffers = buffers
        self.refs = []
        self.codes = []
        self.holds: list[Any] = []
        self.refused = refused  # the ref-like object whose export failed
        self._dry = dry
        self._table = codec.codes
        self._handlers = codec._handlers
        self._exporters = codec._exporters

    def take(self, data: bytes) -> Packed:
        packed = Packed(data, self.buffers.copy(), self.refs, self.codes)
        if self.holds:
            packed.hold = self.holds if any(hold is not None for hold in self.holds) else None
            self.holds = []
        self.buffers.clear()
        self.refs = []
        self.codes = []
        return packed

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        handler = self._handlers.get(kind)
        if handler is not None:
            return handler(self, obj)
        if issubclass(kind, type):
            return self.reduce_definition(obj)
        if issubclass(kind, BaseException):
            return reduce_exception(obj)
        if hasattr(kind, "__actorfw_definition__"):
            return self.reduce_definition(obj)
        return NotImplemented

    def reduce_definition(self, obj: Any) -> Any:
        """A function or class: by its name where that leads back to it, else by the hash of its definition."""
        reference = self._table.reference(obj)
        if reference is not None:
            if reference.needs and reference.needs not in self.codes:
                self.codes.append(reference.needs)
            return reference.reduced
        if isinstance(obj, type) and not obj.__flags__ & _HEAP_TYPE:
            return self.reduce_by_cloudpickle(obj)  # such as the type of None
        code = self._table.define(obj)
        if code not in self.codes:
            self.codes.append(code)
        captured = self._table.captured(obj)
        return (load_with, (code, captured)) if captured else (load_code, (code,))

    def reduce_cached_function(self, obj: Any) -> Any:
        if self._table.reference(obj) is None:
            return self.reduce_by_cloudpickle(obj)  # it would name itself, which says nothing over there
        return self.reduce_definition(obj)

    def reduce_ref(self, obj: Any) -> Any:
        name, export = self._exporters[type(obj)]
        if self._dry:  # only looking for what fails: exporting would pin it
            if obj is self.refused:
                raise _Refused
            return load_ref, (name, 0, None)
        try:
            ref, extra, *holds = export(obj)
        except Exception:  # only to note which one it was
            self.refused = obj
            raise
        self.refs.append(ref)
        self.holds.append(holds[0] if holds else None)
        return load_ref, (name, len(self.refs) - 1, extra)

    def reduce_memoryview(self, obj: memoryview) -> Any:
        if not obj.c_contiguous:
            obj = memoryview(obj.tobytes()).cast("B", ()) if not obj.ndim else memoryview(obj.tobytes())
        return memoryview, (pickle.PickleBuffer(obj.cast("B")),)

    def reduce_long(self, obj: _Long) -> Any:
        value = obj.value
        kind = type(value)
        if kind is not str:
            return kind, (pickle.PickleBuffer(cast("bytes", value)),)
        encoded = cast("str", value).encode("utf-8", "surrogatepass")
        return str, (pickle.PickleBuffer(encoded), "utf-8", "surrogatepass")

    def reduce_by_cloudpickle(self, obj: Any) -> Any:
        from actorfw.wire import byvalue

        return byvalue.reduce_special(obj)


class _Unpickler(pickle.Unpickler):
    """Resolves the two markers that stand for refs and definitions, with no global state."""

    def __init__(self, data: bytes | memoryview, buffers: Iterable[Any], refs: list[WireRef], codec: Codec) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._refs = refs
        self._codec = codec

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == __name__:
            if global_name == "load_ref":
                return self._ref
            if global_name == "load_code":
                return self._codec.codes.load
            if global_name == "load_with":
                return self._codec.codes.load_with
        return super().find_class(module_name, global_name)

    def _ref(self, name: str, index: int, extra: Any) -> Any:
        return self._codec._adopt(name, self._refs[index], extra)


class _Long:
    """A long str, bytes or bytearray that stands as an argument of its own, on its way into a buffer."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class _Refused(Exception):  # noqa: N818  (never seen outside)
    """Stands for the failure of an export while the value is searched."""


class _Sink:
    """What a pickler writes to. The function is an attribute, to be called without a frame in between."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


def load_ref(name: str, index: int, extra: Any) -> Any:
    """The name under which pickle streams ask for a ref; only a `Codec` can answer."""
    raise pickle.UnpicklingError("this pickle stream holds an actorfw ref and can only be read by a Codec")


def load_with(code: bytes, captured: tuple[Any, ...]) -> Any:
    """The same for one that closes over refs."""
    raise pickle.UnpicklingError("this pickle stream holds an actorfw definition and can only be read by a Codec")


def load_code(code: bytes) -> Any:
    """The name under which pickle streams ask for a by-value definition; only a `Codec` can answer."""
    raise pickle.UnpicklingError("this pickle stream names a definition and can only be read by a Codec")


_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement or its like


def _keeper(codec: Codec, buffers: list[Part]) -> Callable[[pickle.PickleBuffer], Any]:
    def keep(buffer: pickle.PickleBuffer) -> None:
        # Small ones too: a small array that can be written to beside a large one that can't would be a trap.
        view = buffer.raw()
        size = view.nbytes
        if size >= SHARED_LEAST and codec.shared is not None:
            if codec.at_once is not None:
                buffers.append(_Unplaced(view))
                return
            block = codec.shared.allocate(size)
            if block is not None:
                block.fill(view)
                block.seal()
                buffers.append(block)
                return
        buffers.append(_on_heap(view))

    return keep


def _on_heap(view: memoryview) -> Buffer:
    source = view.obj
    return source if type(source) is bytes and len(source) == view.nbytes else copied(view)


class _Unplaced(SharedBuffer):
    """A buffer of which it is not decided yet where it is copied to."""

    __slots__ = ("source",)

    def __init__(self, source: memoryview) -> None:
        self.source = source
        self.nbytes = source.nbytes

    @property
    def place(self) -> Place:
        raise AssertionError("it has no place yet")

    def view(self) -> memoryview:
        return self.source


def _place(buffers: list[Part], at_once: Callable[[list[int]], Sequence[WritableBuffer | None]]) -> None:
    """Copy the large buffers of a value to where they stay."""
    unplaced = [(at, buffer.source) for at, buffer in enumerate(buffers) if type(buffer) is _Unplaced]
    if not unplaced:
        return
    blocks = at_once([source.nbytes for _, source in unplaced])
    for (at, source), block in zip(unplaced, blocks, strict=True):
        if block is None:
            buffers[at] = _on_heap(source)
        else:
            block.fill(source)
            block.seal()
            buffers[at] = block


def _readable(buffer: Part) -> bytes | memoryview:
    if type(buffer) is bytes:
        return buffer
    if isinstance(buffer, SharedBuffer):
        return buffer.view()
    return memoryview(buffer).toreadonly()


def _discard(_: Any) -> None:
    return None


def _shorten(value: Any) -> Any:
    return _Long(value) if type(value) in _LONG_TYPES and len(value) >= _LONG else value


def _unpack_failure(error: Exception) -> SerializationError:
    if isinstance(error, SerializationError):
        return error
    here = f"on host {socket.gethostname()} (process {os.getpid()}, Python {sys.version.split()[0]})"
    if isinstance(error, ModuleNotFoundError):
        return SerializationError(
            f"the value can't be rebuilt {here}: {error}. Install the module {error.name!r} there, in the version "
            f"that the sender has, or send plain data instead."
        )
    if isinstance(error, (AttributeError, ImportError)):
        return SerializationError(
            f"the value can't be rebuilt {here}: {error}. Probably another version of that module is installed there."
        )
    return SerializationError(
        f"the value can't be rebuilt {here}: {type(error).__name__}: {error}. The sender pickled it, but what it "
        f"calls to be made again failed."
    )
