"""`CodeTable`: functions and classes as content-addressed blobs, by reference where that works, else by value.

A definition is sent once to each peer and named by its hash from then on. By reference it is its module and name,
with the submitter's import path where the other side needs it to find that module; by value it is what `byvalue`
makes of it. When blobs are sent, and to whom, is decided above this floor.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import site
import socket
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from typing import Any, Final, NamedTuple, cast

import msgpack

from actorfw.values.errors import SerializationError
from actorfw.wire import culprit

__all__ = ["HASH_BYTES", "CodeTable", "Reference", "resolve"]

HASH_BYTES: Final = 16

_BY_REFERENCE: Final = 0
_BY_VALUE: Final = 1
_PATH_ONLY: Final = 2

_MAIN: Final = ("__main__", "__mp_main__")
_THIS_PACKAGE: Final = __name__.partition(".")[0]
_MOST_WRAPPERS: Final = 16
_MISSING: Final = object()


LARGEST_BLOB: Final = 3 << 20
"""Bytes of one by-value definition: it goes to every worker that runs it, as one message (which may have 4 MiB)."""


class Reference(NamedTuple):
    """How a pickle stream names something importable.

    Attributes:
        reduced: what `reducer_override` answers: NotImplemented for pickle's own way, or a call of `resolve`.
        needs: the hash of the blob that makes the module findable there, empty if every interpreter finds it.
    """

    reduced: Any
    needs: bytes


class _Place(NamedTuple):
    """Where a definition was found: (module, qualified name), behind so many `__wrapped__`."""

    module: str
    name: str
    depth: int


class _Made:
    """What `define` once made of an object, and how it can tell whether that still holds."""

    __slots__ = ("captured", "code", "holds", "owner", "version")

    def __init__(
        self,
        owner: weakref.ref[Any],
        code: bytes,
        holds: Callable[[], bool],
        version: str,
        captured: Iterable[Any] = (),
    ) -> None:
        self.owner = owner
        self.captured = tuple(map(weakref.ref, captured))  # who holds them is the definition itself
        self.code = code
        self.holds = holds
        self.version = version


class CodeTable:
    """The definitions that one process has sent or received. Any thread may use it.

    It keeps a blob for each version of each definition that was sent or received, for as long as the process is a
    peer. A by-value function that is re-made at every call, because a global it names is another object each time,
    adds a blob each time: pass such a value as an argument.

    Args:
        host_id: which machine this is; import paths are used only where they are the same machine's.

    Attributes:
        refs: types of what stays out of the blobs of functions, since a blob is kept for good.
    """

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self.refs: Collection[type] = ()
        self._blobs: dict[bytes, bytes] = {}
        self._objects: dict[bytes, Any] = {}
        self._originals: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
        self._prepared: set[bytes] = set()
        self._made: dict[int, _Made] = {}
        # Per module that the other side will find: its namespace, and whether it needs our import path for that.
        self._modules: dict[str, tuple[types.ModuleType, bool]] = {}
        self._path: list[str] = []
        self._cwd = ""
        self._entries: list[str] = []
        self._path_code = b""
        self._own: frozenset[str] | None = None

    # --- blobs

    def add(self, blob: bytes) -> bytes:
        """Keep a blob, received or made here; its hash."""
        code = hashlib.blake2b(blob, digest_size=HASH_BYTES).digest()
        self._blobs[code] = blob
        return code

    def get(self, code: bytes) -> bytes:
        """The blob of this hash.

        Raises:
            SerializationError: it is not here.
        """
        try:
            return self._blobs[code]
        except KeyError:
            raise SerializationError(
                f"the definition {code.hex()} has not arrived on {socket.gethostname()}: a value names it, "
                f"but its sender did not send it first"
            ) from None

    def __contains__(self, code: bytes) -> bool:
        return code in self._blobs

    def captured(self, obj: Any) -> tuple[Any, ...]:
        """The refs that a function closes over, after `define`: to travel beside its hash, for `load_with`."""
        made = self._made.get(id(obj))
        if made is None or not made.captured:
            return ()
        found = tuple(one() for one in made.captured)
        if any(one is None for one in found):  # it was let go by what the function names, and that is the same object
            self._define(obj, None)
            made = self._made[id(obj)]
            found = tuple(one() for one in made.captured)
        return found

    def forget(self, code: bytes) -> None:
        """Drop a blob that is no definition, and that nobody will name again."""
        self._blobs.pop(code, None)

    # --- out

    def define(self, obj: Any, *, owner: object = None) -> bytes:
        """The hash under which others can load this function or class; cheap when nothing has changed.

        By reference when (module, qualified name) leads back to it, directly or through `__wrapped__`, and the other
        side will find the same file under that module name; else by value.

        Args:
            obj: the function or class.
            owner: what wraps it, if its name may lead to `obj` where that of `obj` does not.

        Raises:
            SerializationError: it has to go by value and can't; the message names the global in the way.
        """
        made = self._made.get(id(obj))
        if made is not None and made.owner() is obj and made.code and made.holds():
            return made.code
        return self._define(obj, owner)

    def reference(self, obj: Any) -> Reference | None:
        """How pickle streams may name this function or class, None if it has to go by value."""
        module_name = getattr(obj, "__module__", None)
        known = self._modules.get(module_name) if type(module_name) is str else None
        if (
            known is not None
            and known[0].__dict__.get(getattr(obj, "__qualname__", "")) is obj
            and sys.modules.get(cast("str", module_name)) is known[0]
        ):
            if not known[1]:
                return _PLAIN
            return Reference(NotImplemented, self._path_blob())
        place = _place_of(obj)
        if place is None:
            return None
        needs_path = self._findable(place.module)
        if needs_path is None:
            return None
        return Reference(
            (resolve, tuple(place)) if place.depth else NotImplemented, self._path_blob() if needs_path else b""
        )

    def _define(self, obj: Any, owner: object) -> bytes:
        place = _place_of(obj, owner)
        needs_path = None if place is None else self._findable(place.module)
        if place is not None and needs_path is not None:
            code = self._blob(_BY_REFERENCE, list(place), needs_path)
            if type(obj).__weakrefoffset__ == 0:
                return code  # a built-in thing that can't be watched: made again each time
            self._remember(obj, code, self._reference_holds(obj, owner, place, needs_path), "")
            return code
        version = self._version(obj) if isinstance(obj, type) else ""
        pickled, captured = self._by_value(obj)
        code = self._blob(_BY_VALUE, [_title(obj), pickled], True)
        self._remember(obj, code, self._value_holds(obj), version, captured)
        return code

    def _by_value(self, obj: Any) -> tuple[bytes, list[Any]]:
        from actorfw.wire import byvalue

        # A class is one object in each process, whoever brought it: what it names stays for as long as the class.
        beside = self.refs if isinstance(obj, types.FunctionType) else ()
        try:
            blob, captured = byvalue.dumps(obj, self._reduced, self._version, beside)
        except Exception as error:  # pickling runs user code
            raise self._refusal(obj, error) from error
        if len(blob) > LARGEST_BLOB:
            raise SerializationError(
                f"{_title(obj)} is {len(blob) >> 20} MiB with what it closes over, and code may have "
                f"{LARGEST_BLOB >> 20}: give it the data as an argument, or as a ref from actorfw.put()"
            )
        return blob, captured

    def _refusal(self, obj: Any, error: Exception) -> SerializationError:
        from actorfw.wire import byvalue

        def attempt(part: object) -> Exception | None:
            try:
                byvalue.dumps(part, self._reduced, self._version)
            except Exception as failure:  # likewise: whatever it raises is the reason
                return failure
            return None

        path, part, reason = culprit.find(obj, _title(obj), error, attempt, self._parts_by_value)
        if part is obj:
            what = f"{path} can't be sent by value: {type(reason).__name__}: {reason}."
        else:
            cls = type(part)
            what = (
                f"{_title(obj)} can't be sent: it goes by value, and with it {path} (of type {cls.__module__}."
                f"{cls.__qualname__}), which can't be pickled: {type(reason).__name__}: {reason}."
            )
        return SerializationError(
            f"{what} Make it inside the function, pass it as an argument, or move the definition into a module that "
            f"the other side can import: then it goes by name.",
            path=path,
        )

    def _parts_by_value(self, value: object) -> culprit.Parts:
        from actorfw.wire import byvalue

        if isinstance(value, (types.FunctionType, type)) and self.reference(value) is not None:
            return ()
        return byvalue.parts_of_code(value)

    def _reduced(self, obj: Any) -> Any:
        reference = self.reference(obj)
        return None if reference is None else reference.reduced

    def _goes_by_value(self, obj: Any) -> bool:
        from actorfw.wire import byvalue

        if isinstance(obj, type) and not obj.__flags__ & byvalue.HEAP_TYPE:
            return False
        return self.reference(obj) is None

    def _version(self, cls: type) -> str:
        # One word per state of a class: a copy over there is filled again only when this has changed.
        from actorfw.wire import byvalue

        copied = byvalue.version_of_copy(cls)
        if copied is not None:
            return copied
        made = self._made.get(id(cls))
        if made is not None and made.owner() is cls and made.version and made.holds():
            return made.version
        version = os.urandom(16).hex()
        # Without a blob of its own so far: the class may be on its way inside another definition.
        self._remember(cls, b"", self._value_holds(cls), version)
        return version

    def _remember(
        self, obj: Any, code: bytes, holds: Callable[[], bool], version: str, captured: Sequence[Any] = ()
    ) -> None:
        key = id(obj)
        made = self._made

        def forget(owner: weakref.ref[Any]) -> None:
            entry = made.get(key)
            if entry is not None and entry.owner is owner:
                del made[key]

        try:
            made[key] = _Made(weakref.ref(obj, forget), code, holds, version, captured)
            if code and not captured:  # else others have the same hash
                self._originals[code] = obj
        except TypeError:
            pass  # not weakly referable: made again each time

    def _reference_holds(self, obj: Any, owner: object, place: _Place, needs_path: bool) -> Callable[[], bool]:
        module = sys.modules[place.module]
        top, _, rest = place.name.partition(".")
        found = module.__dict__.get(top)
        entries, cwd = self._entries, self._cwd
        # Weakly, or the entry would keep its own key; only names with dots are looked up again in full.
        target, wrapper = weakref.ref(obj), owner if rest else None

        def holds() -> bool:
            if sys.modules.get(place.module) is not module or module.__dict__.get(top) is not found:
                return False
            if rest and _place_of(target(), wrapper) != place:
                return False
            if needs_path:
                self._look_at_path()
                return self._entries is entries and self._cwd == cwd
            return True

        return holds

    def _value_holds(self, obj: Any) -> Callable[[], bool]:
        from actorfw.wire import byvalue

        unchanged = byvalue.Watch(obj, self._goes_by_value).unchanged
        self._look_at_path()
        entries, cwd = self._entries, self._cwd

        def holds() -> bool:
            self._look_at_path()
            return self._entries is entries and self._cwd == cwd and unchanged()

        return holds

    # --- where modules are found

    def _findable(self, name: str) -> bool | None:
        """Whether the other side needs our import path to find this module; None if it won't find the same file."""
        self._look_at_path()
        module = sys.modules.get(name)
        if module is None or name in _MAIN:
            return None
        known = self._modules.get(name)
        if known is not None and known[0] is module:
            return known[1]
        cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
        if cloudpickle is not None and cloudpickle._is_registered_pickle_by_value(module):
            return None
        needs_path = self._search(name, module)
        if needs_path is not None:
            self._modules[name] = (module, needs_path)
        return needs_path

    def _search(self, name: str, module: types.ModuleType) -> bool | None:
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.loader in (BuiltinImporter, FrozenImporter):
            return False
        parent, _, _ = name.rpartition(".")
        if parent:
            needs_path = self._findable(parent)
            if needs_path is None:
                return None
            found = PathFinder.find_spec(name, getattr(sys.modules[parent], "__path__", None))
            return needs_path if _same_file(found, module) else None
        if name == _THIS_PACKAGE:
            return False  # whoever unpacks has it, wherever it is
        own = self._own_entries()
        ours = [entry for entry in sys.path if _absolute(entry) in own]
        # In the order in which the other side will look: its own entries first, ours behind them.
        if _same_file(PathFinder.find_spec(name, ours), module):
            return False
        if _same_file(PathFinder.find_spec(name, ours + self._entries), module):
            return True
        return False if _from_editable_install(name) else None

    def _own_entries(self) -> frozenset[str]:
        if self._own is None:
            library = os.path.dirname(os.path.abspath(os.__file__))
            own = {library, os.path.join(library, "lib-dynload")}
            own.update(entry for entry in sys.path if entry.endswith(".zip") and os.path.dirname(library) in entry)
            own.update(map(os.path.abspath, site.getsitepackages()))
            if site.ENABLE_USER_SITE:
                own.add(os.path.abspath(site.getusersitepackages()))
            self._own = frozenset(own)
        return self._own

    def _look_at_path(self) -> None:
        try:
            cwd = os.getcwd()
        except OSError:  # the folder is gone
            cwd = ""
        if sys.path == self._path and cwd == self._cwd:
            return
        own = self._own_entries()
        self._path = list(sys.path)
        self._cwd = cwd
        entries = [_absolute(entry) for entry in self._path]
        self._entries = [entry for entry in dict.fromkeys(entries) if entry not in own]
        self._path_code = b""
        self._modules.clear()

    def _path_blob(self) -> bytes:
        self._look_at_path()
        if not self._path_code:
            self._path_code = self._blob(_PATH_ONLY, None, True)
        return self._path_code

    def _blob(self, kind: int, body: Any, with_path: bool) -> bytes:
        where = [self._host_id, socket.gethostname(), self._cwd, self._entries] if with_path else None
        code = self.add(msgpack.packb([kind, body, where]))
        self._prepared.add(code)  # this process has these entries: they are its own
        return code

    # --- in

    def load(self, code: bytes) -> Any:
        """The function or class of this hash: the original where it was defined here, else one per process.

        Raises:
            SerializationError: its blob is not here, or it can't be made here; the message says what is missing.
        """
        found = self._objects.get(code, _MISSING)
        if found is _MISSING:
            found = self._originals.get(code, _MISSING)
        if found is not _MISSING:
            return found
        kind, body, where = self._parsed(code)
        self.prepare(code)
        try:
            found = self._import(body) if kind == _BY_REFERENCE else pickle.loads(body[1])
        except Exception as error:  # importing and unpickling run user code
            title = f"{body[0]}.{body[1]}" if kind == _BY_REFERENCE else body[0]
            raise self._load_failure(title, where, error) from error
        found = self._objects.setdefault(code, found)
        if kind == _BY_VALUE:
            # What came under this hash goes on under it, instead of becoming another definition.
            self._remember(found, code, _always, "")
        return found

    def load_with(self, code: bytes, captured: tuple[Any, ...]) -> Any:
        """A function of this hash that closes over these refs: a new one each time.

        Raises:
            SerializationError: as `load`.
        """
        from actorfw.wire import byvalue

        _, body, where = self._parsed(code)
        self.prepare(code)
        try:
            found = byvalue.loads(body[1], captured)
        except Exception as error:  # unpickling runs user code
            raise self._load_failure(body[0], where, error) from error
        self._remember(found, code, _always, "", captured)
        return found

    def prepare(self, code: bytes) -> None:
        """Make the modules findable that this definition may import, if it comes from this machine."""
        if code in self._prepared:
            return
        where = self._parsed(code)[2]
        if where is not None and where[0] == self._host_id:
            for entry in where[3]:
                if entry not in sys.path:
                    sys.path.append(entry)
        self._prepared.add(code)

    def cwd_of(self, code: bytes) -> str | None:
        """The submitter's working folder when this definition was made; None if it doesn't matter or is elsewhere."""
        where = self._parsed(code)[2]
        return where[2] if where is not None and where[0] == self._host_id and where[2] else None

    def name_of(self, code: bytes) -> str:
        """What to call this definition in messages."""
        kind, body, _ = self._parsed(code)
        return body[1] if kind == _BY_REFERENCE else body[0] if kind == _BY_VALUE else "the import path"

    def _parsed(self, code: bytes) -> tuple[int, Any, Any]:
        blob = self.get(code)
        try:
            kind, body, where = msgpack.unpackb(blob)
        except ValueError as error:
            raise SerializationError(f"the definition {code.hex()} is damaged: {error}") from error
        return kind, body, where

    def _import(self, body: Any) -> Any:
        module, name, depth = body
        try:
            return resolve(module, name, depth)
        except ModuleNotFoundError:
            importlib.invalidate_caches()  # the file may be newer than what the finders remember of its folder
            return resolve(module, name, depth)

    def _load_failure(self, title: str, where: Any, error: Exception) -> SerializationError:
        here = socket.gethostname()
        if isinstance(error, ModuleNotFoundError):
            if where is not None and where[0] != self._host_id:
                advice = (
                    f"It comes from {where[1]}, whose import path does not travel to other hosts: have the module "
                    f"shipped, by runtime_env={{'py_modules': [{error.name}]}}, or install it on {here} too."
                )
            else:
                advice = f"Install the module for {sys.executable} there, in the version that the sender has."
            return SerializationError(f"{title} can't be loaded on {here}: {error}. {advice}")
        return SerializationError(
            f"{title} can't be loaded on {here} (process {os.getpid()}, Python {sys.version.split()[0]}): "
            f"{type(error).__name__}: {error}. If it goes by name, look at the import of its module there; "
            f"the sender may have another version of it."
        )


def resolve(module: str, name: str, depth: int) -> Any:
    """The object at a qualified name of a module, so many `__wrapped__` deep."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    for _ in range(depth):
        found = found.__wrapped__
    return found


_PLAIN: Final = Reference(NotImplemented, b"")


def _always() -> bool:
    return True


def _place_of(obj: Any, owner: object = None) -> _Place | None:
    place = _place_under(obj, obj)
    return _place_under(obj, owner) if place is None and owner is not None else place


def _place_under(obj: Any, named: Any) -> _Place | None:
    module_name = getattr(named, "__module__", None)
    name = getattr(named, "__qualname__", None)
    if type(module_name) is not str or type(name) is not str or module_name in _MAIN:
        return None
    found: Any = sys.modules.get(module_name)
    try:
        for part in name.split("."):
            found = getattr(found, part)
        for depth in range(_MOST_WRAPPERS):
            if found is obj:
                return _Place(module_name, name, depth)
            found = found.__wrapped__
    except Exception:  # reading attributes runs user code: nothing is under that name, or something else
        pass
    return None


def _same_file(found: Any, module: types.ModuleType) -> bool:
    if found is None:
        return False
    spec = getattr(module, "__spec__", None)
    ours = getattr(spec, "origin", None) or getattr(module, "__file__", None)
    if found.origin is None or ours is None:  # a namespace package: as long as its folders are among those found
        paths = set(map(_absolute, found.submodule_search_locations or ()))
        return found.origin is None and ours is None and paths >= set(map(_absolute, getattr(module, "__path__", ())))
    if _absolute(found.origin) == _absolute(ours):
        return True
    try:
        return os.path.samefile(found.origin, ours)
    except OSError:
        return False


def _from_editable_install(name: str) -> bool:
    # Such installations find their modules through a finder of their own, which every process of that interpreter has.
    for finder in sys.meta_path:
        if "editable" in (getattr(finder, "__module__", None) or type(finder).__module__):
            try:
                if finder.find_spec(name, None) is not None:
                    return True
            except Exception:  # a finder of somebody else's
                continue
    return False


def _absolute(entry: str) -> str:
    return os.path.abspath(entry)


def _title(obj: Any) -> str:
    name = getattr(obj, "__qualname__", None)
    return name if isinstance(name, str) else type(obj).__qualname__
