"""What a remote function or class is to the runtime: its code, its kind, its options, and how each travels.

A `Definition` is made by `@remote` and by `.options()`. It travels as a blob of its own (kind, name, hash of the code's
blob, the options that the executing side needs), content-addressed like code, so that a call names it with 16 bytes.
What only the submitting side needs (retries, scheduling, deadlines) stays here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.core.ledger import Shape
from actorfw.runtime.runtimeenv import EnvironmentSpec, check_executor
from actorfw.values.data import Data
from actorfw.values.environment import Environment
from actorfw.values.errors import UsageError
from actorfw.values.scheduling import Bundle, PlacementGroup

if TYPE_CHECKING:
    from actorfw.wire.code import CodeTable

__all__ = [
    "ASYNC",
    "ASYNC_GENERATOR",
    "CLASS",
    "DEF",
    "GENERATOR",
    "ActorDefinitions",
    "Definition",
    "Interface",
    "MethodInfo",
    "Recipe",
]

DEF: Final = "def"
ASYNC: Final = "async def"
GENERATOR: Final = "generator"
ASYNC_GENERATOR: Final = "async generator"
CLASS: Final = "class"


def kind_of(fn: Callable[..., Any]) -> str:
    """One of the kinds above, by what calling `fn` gives."""
    fn = inspect.unwrap(fn)
    if inspect.isasyncgenfunction(fn):
        return ASYNC_GENERATOR
    if inspect.isgeneratorfunction(fn):
        return GENERATOR
    if inspect.iscoroutinefunction(fn):
        return ASYNC
    return DEF


class MethodInfo(Data):
    """One method of an actor's class as its callers see it: what `@actorfw.method` said, and the options of calls."""

    name: str
    kind: str
    group: str = ""
    interleave: bool = False
    ordered: bool = True
    timeout: float | None = None
    num_returns: int = 1
    max_task_retries: int = 0

    @property
    def streams(self) -> bool:
        return self.kind in (GENERATOR, ASYNC_GENERATOR)

    def to_wire(self) -> list[Any]:
        return [
            self.name,
            self.kind,
            self.group,
            self.interleave,
            self.ordered,
            self.timeout,
            self.num_returns,
            self.max_task_retries,
        ]


class Interface(Data):
    """The methods of an actor's class: all that a handle knows about it. Travels with handles; the class does not."""

    name: str
    methods: Mapping[str, MethodInfo] = field(hash=False)

    @classmethod
    def of(cls, actor_class: type, max_task_retries: int = 0) -> Interface:
        """Read the public methods of a class, those of its bases included.

        Args:
            actor_class: the class.
            max_task_retries: of those methods that say nothing else.
        """
        methods: dict[str, MethodInfo] = {}
        for name in dir(actor_class):
            if name.startswith("_"):
                continue
            try:
                attribute = inspect.getattr_static(actor_class, name)
            except AttributeError:
                continue
            if isinstance(attribute, (staticmethod, classmethod)):
                if getattr(attribute.__func__, "__actorfw_own__", False):
                    continue  # remote and options, which @remote and Actor put there
                attribute = attribute.__func__
            if not callable(attribute) or isinstance(attribute, type):
                continue
            said: dict[str, Any] = getattr(attribute, "__actorfw_method__", {})
            options: dict[str, Any] = {"max_task_retries": max_task_retries, **said}
            methods[name] = MethodInfo(name, kind_of(attribute), **options)
        return cls(actor_class.__qualname__, methods)

    def to_wire(self) -> list[Any]:
        return [self.name, [method.to_wire() for method in self.methods.values()]]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> Interface:
        name, rows = wire
        return cls(name, {row[0]: MethodInfo(*row) for row in rows})

    def __reduce__(self) -> Any:
        return Interface.from_wire, (self.to_wire(),)


class Recipe(Data, frozen=False):
    """The executing side's half of a definition."""

    kind: str
    name: str
    code: bytes
    executor: str
    shape: Shape
    max_concurrency: int = 1
    groups: dict[str, int] = field(default_factory=dict[str, int])
    max_pending_calls: int = 10_000
    overflow: str = "wait"
    environment: Environment | None = None

    def to_blob(self) -> bytes:
        """The bytes whose hash names this definition in messages."""
        packed: bytes = msgpack.packb(
            [
                self.kind,
                self.name,
                self.code,
                self.executor,
                self.shape.amounts,
                self.shape.bundle,
                self.max_concurrency,
                self.groups,
                self.max_pending_calls,
                self.overflow,
                *(() if self.environment is None else (self.environment.to_wire(),)),
            ]
        )
        return packed

    @classmethod
    def from_blob(cls, blob: bytes) -> Recipe:
        fields = msgpack.unpackb(blob)
        kind, name, code, executor, amounts, bundle, concurrency, groups, pending, overflow, *more = fields
        shape = Shape.from_wire(amounts)
        if bundle is not None:
            (owner, number), index = bundle
            shape = shape.within_bundle(((owner, number), index))
        environment = Environment.from_wire(more[0]) if more else None
        return cls(kind, name, code, executor, shape, concurrency, groups, pending, overflow, environment)


class Definition:
    """A remote function or class with its options, as its submitters see it.

    Args:
        target: the bare function or the class.
        owner: the object that the module path leads to: the wrapper of a function, the class itself.
        options: complete and validated.
        name: shown in listings, errors and output.
    """

    __slots__ = (
        *("_recipe_of", "executor", "goes_along", "interface", "kind", "name", "options", "owner", "runtime_env"),
        *("shape", "target"),
    )

    def __init__(self, target: Any, owner: Any, options: Mapping[str, Any], name: str | None = None) -> None:
        self.target = target
        self.goes_along = False  # as `wire` found it: the function is an argument of each call, before all others
        self.owner = owner
        self.options = options
        self.interface: Interface | None = None
        if isinstance(target, type):
            self.kind = CLASS
            self.interface = Interface.of(target, options.get("max_task_retries", 0))
            asynchronous = any(m.kind in (ASYNC, ASYNC_GENERATOR) for m in self.interface.methods.values())
            cpus = 0.0
        else:
            self.kind = kind_of(target)
            asynchronous = self.kind in (ASYNC, ASYNC_GENERATOR)
            cpus = 0.0 if asynchronous else 1.0
        called: str = getattr(target, "__qualname__", type(target).__name__)
        self.name: str = name or options.get("name") or called
        if self.kind == CLASS:
            self.name = target.__qualname__
        self.executor: str = options.get("executor") or ("loop" if asynchronous else "process")
        self.runtime_env: EnvironmentSpec | None = options.get("runtime_env")
        if self.runtime_env is not None:
            check_executor(self.runtime_env, self.executor, self.name)
        if "concurrency_groups" in options:
            self.check_groups()
        given = options.get("num_cpus")
        self.shape = Shape.of(
            num_cpus=cpus if given is None else given,
            num_gpus=options.get("num_gpus", 0),
            memory=options.get("memory", 0),
            resources=options.get("resources") or {},
        )
        scheduling = options.get("scheduling")
        if isinstance(scheduling, PlacementGroup):
            self.shape = self.shape.within_bundle((scheduling.ref_id, -1))
        elif isinstance(scheduling, Bundle):
            self.shape = self.shape.within_bundle((scheduling.group.ref_id, scheduling.index))
        # (table, hash of the code, hash of the recipe, the recipe) as last sent: the code may have to be made again.
        self._recipe_of: tuple[Any, bytes, bytes, Recipe] | None = None

    @property
    def streams(self) -> bool:
        return self.kind in (GENERATOR, ASYNC_GENERATOR)

    def check_groups(self) -> None:
        """Each concurrency group that a method of the class names must exist.

        Raises:
            UsageError: one does not.
        """
        groups: Mapping[str, int] = self.options.get("concurrency_groups") or {}
        for info in self.interface.methods.values() if self.interface is not None else ():
            if info.group and info.group not in groups:
                there = ", ".join(map(repr, groups)) or "none"
                raise UsageError(
                    f"method {info.name} of {self.name} is in the group {info.group!r}, which is not among the "
                    f"concurrency_groups of the actor; there are: {there}"
                )

    def wire(self, codes: CodeTable, environment: Environment | None = None) -> tuple[bytes, Recipe]:
        """The hash that names this definition in messages, and its recipe; adds both blobs to the table.

        `environment`: what it is to run in; always the same object for equal ones.
        """
        code = codes.define(self.target, owner=self.owner)
        known = self._recipe_of
        if known is not None and known[0] is codes and known[1] == code and known[3].environment is environment:
            return known[2], known[3]
        self.check_groups()
        self.goes_along = self.kind != CLASS and bool(codes.captured(self.target))
        recipe = Recipe(
            self.kind,
            self.name,
            codes.define(call_argument) if self.goes_along else code,
            self.executor,
            self.shape,
            self.options.get("max_concurrency") or 1,
            dict(self.options.get("concurrency_groups") or {}),
            self.options.get("max_pending_calls") or 10_000,
            self.options.get("overflow") or "wait",
            environment,
        )
        hashed = codes.add(recipe.to_blob())
        self._recipe_of = (codes, code, hashed, recipe)
        return hashed, recipe


def call_argument(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What runs in the place of a function that closes over refs, which are then held as those of any argument."""
    return function(*args, **kwargs)


class ActorDefinitions:
    """The actor classes that one home makes actors of, each with its definition, made once."""

    def __init__(self) -> None:
        self._known: dict[type, Definition] = {}

    def of(self, actor_class: type) -> Definition:
        """The definition of an actor class with its own options."""
        definition = self._known.get(actor_class)
        if definition is None:
            options = actor_class.__dict__.get("__actorfw_options__", {})
            definition = self._known[actor_class] = Definition(actor_class, actor_class, options)
        return definition
