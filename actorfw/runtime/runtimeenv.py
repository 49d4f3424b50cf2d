"""`runtime_env`: what a user may ask for, and how it becomes an `Environment` with packages, where it is submitted.

Responsible for: checking the option, finding the files behind modules, packing them when a task is submitted, and again
when they have changed; what a nested submission inherits. Leaves to others: packing (`io.packing`), where packages lie
(`io.packages`), how they come to other nodes (`runtime.packages`), and what is made of them there
(`runtime.environments`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from actorfw.runtime import current
from actorfw.values.data import Data
from actorfw.values.environment import Environment
from actorfw.values.errors import UsageError

if TYPE_CHECKING:
    from actorfw.io.packages import Held, PackageFiles
    from actorfw.io.packing import Source

__all__ = ["EnvironmentSpec", "Resolver", "RuntimeEnv", "check_executor"]

_KEYS: Final = ("env_vars", "working_dir", "py_modules")
_LOOK_AGAIN: Final = 1.0  # seconds, after which files are looked at again

# Read when a process or an interpreter starts, and workers are forked from one that runs.
_TOO_LATE: Final = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_TUNABLES", "ACTORFW_")


class RuntimeEnv(TypedDict, total=False):
    """What a task or actor wants of the process that it runs in.

    A key that is missing is what the task or actor has that submits; None asks for none, whatever that has.
    """

    env_vars: Mapping[str, str] | None
    working_dir: str | os.PathLike[str] | None
    py_modules: Sequence[str | os.PathLike[str] | ModuleType] | None


class EnvironmentSpec(Data):
    """A `runtime_env` that was checked; what it names has not been looked at.

    It pickles as what it stands for at that moment, since its paths mean nothing elsewhere.

    Attributes:
        given: the keys that were given.
        env_vars: sorted.
        working_dir: absolute path; empty: none.
        py_modules: absolute paths.
        made: what it stands for, if it came from another process.
    """

    given: tuple[str, ...]
    env_vars: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    made: Environment | None = None

    @classmethod
    def of(cls, option: object, what: str) -> EnvironmentSpec:
        """Check what a user gave.

        Raises:
            UsageError: names the key and what it must be.
        """
        if isinstance(option, EnvironmentSpec):
            return option
        if not isinstance(option, Mapping):
            raise UsageError(f"the option 'runtime_env' of {what} must be a dict with some of {', '.join(_KEYS)}")
        env = cast("Mapping[object, object]", option)
        for key in env:
            if key not in _KEYS:
                raise UsageError(f"{key!r} is no key of the runtime_env of {what}; the keys are {', '.join(_KEYS)}")
        return cls(
            tuple(str(key) for key in env),
            _env_vars(env.get("env_vars"), what),
            _path(env.get("working_dir"), what) if env.get("working_dir") is not None else "",
            _modules(env.get("py_modules"), what),
        )

    @property
    def needs_process(self) -> str:
        """The first key that only a worker process can have, or ""."""
        if self.made is not None:
            return "env_vars" if self.made.env_vars else "working_dir" if self.made.working_dir else ""
        return "env_vars" if self.env_vars else "working_dir" if self.working_dir else ""

    def __reduce__(self) -> Any:
        home: Any = current.home()
        return _made_elsewhere, (self.given, home.resolver.of(self, None).to_wire())

    def __repr__(self) -> str:
        return f"<runtime_env {', '.join(self.given) or 'empty'}>"


def _made_elsewhere(given: tuple[str, ...], wire: Any) -> EnvironmentSpec:
    return EnvironmentSpec(given, made=Environment.from_wire(wire))


def check_executor(spec: EnvironmentSpec, executor: str, what: str) -> None:
    """See whether what runs there can have this environment.

    Raises:
        UsageError: it can't.
    """
    key = spec.needs_process
    if key and executor != "process":
        raise UsageError(
            f"{what} runs in the node's own process (executor={executor!r}), which many share: it can't have {key} of "
            f"its own. Use executor='process', or only py_modules"
        )


def _env_vars(given: object, what: str) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    good = isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(value, str)
        for name, value in cast("Mapping[object, object]", given).items()
    )
    if not good:  # without the values: they may be secret
        raise UsageError(f"env_vars in the runtime_env of {what} must be a dict of strings to strings")
    pairs = cast("Mapping[str, str]", given)
    for name, value in pairs.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise UsageError(f"env_vars in the runtime_env of {what} has {name!r}, which can't be set")
        if name.startswith(_TOO_LATE):
            raise UsageError(
                f"env_vars in the runtime_env of {what} has {name!r}, which is read when an interpreter starts: workers"
                " are forked from one that runs, and it would have no effect. Set it where the node is started"
            )
    return tuple(sorted(pairs.items()))


def _path(given: object, what: str) -> str:
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(cast("str", given)):
        raise UsageError(f"working_dir in the runtime_env of {what} is {given!r}; it must be a path")
    path = os.fspath(cast("str | os.PathLike[str]", given))
    if "://" in path:
        raise UsageError(f"working_dir in the runtime_env of {what} is {path!r}; it must be a path on this machine")
    return os.path.abspath(os.path.expanduser(path))


def _modules(given: object, what: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise UsageError(f"py_modules in the runtime_env of {what} must be a list of modules and paths")
    paths: list[str] = []
    for item in cast("Sequence[object]", given):
        if isinstance(item, ModuleType):
            paths += _files_of(item, what)
        elif isinstance(item, (str, os.PathLike)):
            paths.append(os.path.abspath(os.path.expanduser(os.fspath(cast("str | os.PathLike[str]", item)))))
        else:
            raise UsageError(
                f"py_modules in the runtime_env of {what} has {item!r}; it must be a module, or the path of a package's"
                " folder, a .py file, a .zip or a wheel"
            )
    return tuple(dict.fromkeys(paths))


def _files_of(module: ModuleType, what: str) -> list[str]:
    name = module.__name__
    if "." in name or name == "__main__":
        raise UsageError(
            f"py_modules in the runtime_env of {what} has the module {name}: give its top-level package, or a module of"
            " its own (what __main__ defines travels by value)"
        )
    folders = [os.path.abspath(path) for path in getattr(module, "__path__", ())]
    if folders:
        return folders
    file = getattr(module, "__file__", None)
    if not file:
        raise UsageError(f"py_modules in the runtime_env of {what} has the module {name}, which is of no file")
    return [os.path.abspath(file)]


class _Packed:
    """A source as it was packed last."""

    __slots__ = ("held", "looked", "signature")

    def __init__(self, held: Held, signature: object, looked: float) -> None:
        self.held = held
        self.signature = signature
        self.looked = looked


class Resolver:
    """What one process has made of the environments that were asked for in it. Any thread.

    Args:
        files: gives the place of packages when it is first needed.
        limit: bytes that a package may have.
        time: a clock, in seconds.
        inherited: what everything submitted in this process has if it asks for nothing else.
    """

    def __init__(self, files: Callable[[], PackageFiles], limit: int, time: Callable[[], float]) -> None:
        self.inherited: Environment | None = None
        self._files = files
        self._limit = limit
        self._time = time
        self._lock = threading.Lock()
        self._packed: dict[tuple[str, str], _Packed] = {}
        self._known: dict[Environment, Environment] = {}

    def of(
        self, spec: EnvironmentSpec | None, parent: Environment | None, executor: str = "process"
    ) -> Environment | None:
        """The environment of what is submitted now; equal ones are one object. It blocks while files are packed.

        Args:
            spec: what it asks for itself.
            parent: of the task or actor that submits it.
            executor: where it will run.

        Raises:
            UsageError: something is missing, can't be read, or is too large; says what.
        """
        if spec is None:
            found = parent
        else:
            own = spec.made or self._make(spec)
            found = own if parent is None else _merged(own, spec.given, parent)
        if found is not None and executor != "process":
            found = found.modules_only  # what it asks for itself was checked before
        if found is None or not (found.env_vars or found.packages):
            return None
        return self._known.setdefault(found, found)

    def _make(self, spec: EnvironmentSpec) -> Environment:
        from actorfw.io.packing import FOLDER, MODULE  # few programs need it

        working_dir = self._package(FOLDER, spec.working_dir, "working_dir") if spec.working_dir else b""
        modules = tuple(self._package(MODULE, path, "py_modules") for path in spec.py_modules)
        return Environment(spec.env_vars, working_dir, tuple(dict.fromkeys(modules)))

    def _package(self, kind: str, path: str, option: str) -> bytes:
        from actorfw.io import packing

        with self._lock:
            known = self._packed.get((kind, path))
            now = self._time()
            if known is not None and now - known.looked < _LOOK_AGAIN:
                return known.held.digest
            source = packing.source_of(kind, path, option)
            signature = packing.signature(source)
            if known is not None and known.signature == signature:
                known.looked = now
                return known.held.digest
            held = self._pack(source)
            if known is not None:
                known.held.release()
            self._packed[(kind, path)] = _Packed(held, signature, self._time())
            return held.digest

    def _pack(self, source: Source) -> Held:
        from actorfw.io import packing

        try:
            part = self._files().part()
            try:
                packing.pack(source, part.file, self._limit)
            except BaseException:
                part.drop()
                raise
            return part.keep()
        except OSError as error:
            raise UsageError(f"{source.option}: {source.path} can't be packed: {error}") from error

    def close(self) -> None:
        """Let go of all packages."""
        with self._lock:
            for packed in self._packed.values():
                packed.held.release()
            self._packed.clear()


def _merged(own: Environment, given: tuple[str, ...], parent: Environment) -> Environment:
    env_vars = own.env_vars
    if "env_vars" not in given:
        env_vars = parent.env_vars
    elif env_vars:
        env_vars = tuple(sorted({**dict(parent.env_vars), **dict(env_vars)}.items()))
    return Environment(
        env_vars,
        own.working_dir if "working_dir" in given else parent.working_dir,
        own.py_modules if "py_modules" in given else parent.py_modules,
    )
