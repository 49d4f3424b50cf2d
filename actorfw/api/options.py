"""The options of tasks, actors and methods: their names and types, and what is wrong with those that are given.

Checked when `@remote` or `.options()` is called, never later: an unknown option or a wrong type fails at once, names
the option and lists the right ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict

from actorfw.core.ledger import Shape
from actorfw.runtime.runtimeenv import EnvironmentSpec, RuntimeEnv
from actorfw.values.errors import UsageError
from actorfw.values.names import name_problem, shortened
from actorfw.values.scheduling import Scheduling, check_scheduling

__all__ = [
    "ActorOptions",
    "AnyOptions",
    "CallOptions",
    "TaskOptions",
    "check_actor_options",
    "check_task_options",
]

Executor: TypeAlias = Literal["process", "thread", "loop"]
Overflow: TypeAlias = Literal["wait", "error"]


class TaskOptions(TypedDict, total=False):
    """Options of tasks, in `@remote(...)` and `.options(...)`; `num_returns`, which says what comes back, is apart."""

    num_cpus: float
    num_gpus: float
    memory: float
    resources: Mapping[str, float]
    executor: Executor
    max_retries: int
    retry_exceptions: bool | Sequence[type[BaseException]]
    retry_delay: float
    timeout: float | None
    schedule_timeout: float | None
    name: str
    scheduling: Scheduling
    runtime_env: RuntimeEnv


class ActorOptions(TypedDict, total=False):
    """Options of actors, in `@remote(...)` and `.options(...)`."""

    name: str
    namespace: str
    get_if_exists: bool
    detached: bool
    executor: Executor
    max_concurrency: int
    concurrency_groups: Mapping[str, int]
    max_pending_calls: int
    max_restarts: int
    max_task_retries: int
    restart_backoff: float
    overflow: Overflow
    num_cpus: float
    num_gpus: float
    memory: float
    resources: Mapping[str, float]
    schedule_timeout: float | None
    scheduling: Scheduling
    runtime_env: RuntimeEnv


class AnyOptions(TaskOptions, ActorOptions, total=False):
    """What `@remote(...)` takes, before it knows whether a function or a class follows."""


class CallOptions(TypedDict, total=False):
    """Options of one call of an actor's method; `num_returns`, which says what comes back, is apart."""

    timeout: float | None
    max_task_retries: int


def _number(least: float, unit: str = "") -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
            return f"a number of at least {least:g}{unit}"
        return None

    return check


def _or_none(check: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    def either(value: Any) -> str | None:
        wanted = None if value is None else check(value)
        return wanted and f"{wanted}, or None"

    return either


def _integer(least: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            return f"an integer of at least {least}"
        return None

    return check


def _overflow(value: Any) -> str | None:
    return None if value in ("wait", "error") else '"wait" or "error"'


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _executor(value: Any) -> str | None:
    return None if value in ("process", "thread", "loop") else "'process', 'thread' or 'loop'"


def _resources(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return "a mapping of names to amounts"
    Shape.of(resources=value)
    return None


def _groups(value: Any) -> str | None:
    good = isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, int) and not isinstance(v, bool) and v >= 1 for k, v in value.items()
    )
    return None if good else "a mapping of group names to how many calls may run in each"


def _exceptions(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    good = isinstance(value, Sequence) and all(isinstance(v, type) and issubclass(v, BaseException) for v in value)
    return None if good else "True, False or a list of exception types"


def _scheduling(value: Any) -> str | None:
    check_scheduling(value)
    return None


def _anything(value: Any) -> str | None:
    return None  # looked at as a whole, below


_Checks = dict[str, Callable[[Any], str | None]]

_COMMON: Final[_Checks] = {
    "num_cpus": _number(0),
    "num_gpus": _number(0),
    "memory": _number(0, " bytes"),
    "resources": _resources,
    "executor": _executor,
    "schedule_timeout": _or_none(_number(0, " seconds")),
    "name": name_problem,
    "scheduling": _scheduling,
    "runtime_env": _anything,
}
_TASK: Final[_Checks] = {
    **_COMMON,
    "num_returns": _integer(0),
    "max_retries": _integer(-1),
    "retry_exceptions": _exceptions,
    "retry_delay": _number(0, " seconds"),
    "timeout": _or_none(_number(0, " seconds")),
}
_ACTOR: Final[_Checks] = {
    **_COMMON,
    "namespace": name_problem,
    "get_if_exists": _flag,
    "detached": _flag,
    "max_concurrency": _integer(1),
    "concurrency_groups": _groups,
    "max_pending_calls": _integer(1),
    "max_restarts": _integer(-1),
    "max_task_retries": _integer(-1),
    "restart_backoff": _number(0, " seconds"),
    "overflow": _overflow,
}

_LATER: Final = {
    "durable": "it comes with durable actors",
    "idle_timeout": "it comes with virtual actors",
}


def _check(options: Mapping[str, Any], checks: _Checks, what: str) -> dict[str, Any]:
    for name, value in options.items():
        check = checks.get(name)
        if check is None:
            if name in _LATER:
                raise UsageError(f"the option {name!r} of {what} is not there yet: {_LATER[name]}")
            raise UsageError(f"{name!r} is no option of {what}; the options are {', '.join(sorted(checks))}")
        wanted = check(value)
        if wanted is not None:
            raise UsageError(f"the option {name!r} of {what} is {shortened(value)}; it must be {wanted}")
    checked = dict(options)
    if isinstance(checked.get("retry_exceptions"), Sequence):
        checked["retry_exceptions"] = tuple(checked["retry_exceptions"])
    if "runtime_env" in checked:
        checked["runtime_env"] = EnvironmentSpec.of(checked["runtime_env"], what)
    return checked


def check_task_options(options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options of a task, checked.

    Raises:
        UsageError: names the option and what it must be.
    """
    return _check(options, _TASK, what)


def check_actor_options(options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options of an actor, checked.

    Raises:
        UsageError: names the option and what it must be.
    """
    checked = _check(options, _ACTOR, what)
    if checked.get("get_if_exists") and "name" not in checked:
        raise UsageError(f"get_if_exists of {what} needs a name")
    return checked
