"""The commands, and what becomes of their errors. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import cyclopts
from cyclopts import Parameter

import actorfw
from actorfw.api.life import Node
from actorfw.api.member import live
from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.cli import listing
from actorfw.values.config import Config
from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerUnreachableError,
    ProtocolError,
    UsageError,
)

__all__ = ["execute"]

T = TypeVar("T")

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_CLUSTER: Final = 3
NOT_ALLOWED: Final = 4
INTERRUPTED: Final = 130  # 128 and the number of SIGINT, as shells have it

# A listing is for somebody who waits for it: it does not try as long as a node does that wants to join.
_VISIT_SECONDS: Final = 5.0

app = cyclopts.App(
    name="actorfw",
    help="Distributed tasks, actors and object refs. Exit status: 0 success, 1 the work failed, 2 wrong usage, "
    "3 no cluster reached, 4 not allowed.",
    help_flags=["--help", "-h"],
    version=actorfw.__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # it has its message and status here
)

Seeds = Annotated[
    list[str] | None,
    Parameter(name="--seed", negative=(), help="A live node, HOST:PORT; may be repeated. [default: ACTORFW_SEEDS]"),
]
Cluster = Annotated[str, Parameter(help="Name of the cluster.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


def execute(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    try:
        status = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _say(USAGE, f"{error}\nTry: actorfw --help")
    except AuthenticationError as error:
        return _say(NOT_ALLOWED, error)
    except (PeerUnreachableError, ProtocolError) as error:
        return _say(NO_CLUSTER, error)
    except UsageError as error:
        return _say(USAGE, error)
    except ActorFwError as error:
        return _say(FAILED, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        return _say(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not try to write the rest when it exits.
        sys.stdout = None
        return OK
    return status if isinstance(status, int) else OK


def _say(status: int, what: object) -> int:
    print(f"actorfw: {what}", file=sys.stderr)
    return status


@app.command
def demo(
    *,
    peers: Annotated[int, Parameter(help="How many peers to start.")] = 3,
    path: Annotated[
        str | None, Parameter(help="Folder whose .py files are read. [default: the standard library]")
    ] = None,
    as_json: Json = False,
    keep: Annotated[bool, Parameter(negative=(), help="Leave the cluster up until Ctrl-C.")] = False,
) -> int:
    """Count the words of the standard library on some peers, kill one half-way, and check the totals."""
    from actorfw.demo import main

    return OK if main(listing.table, peers=peers, path=path, as_json=as_json, keep=keep) else FAILED


@app.command
def start(
    *,
    seeds: Seeds = None,
    listen: Annotated[
        str, Parameter(help="Where to accept peers, HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    advertise: Annotated[str | None, Parameter(help="What peers dial, where it differs from --listen.")] = None,
    num_cpus: Annotated[float | None, Parameter(help="CPUs to offer. [default: the machine's]")] = None,
    label: Annotated[
        list[str] | None, Parameter(negative=(), help="KEY=VALUE, for scheduling by labels; may be repeated.")
    ] = None,
    name: Annotated[str | None, Parameter(help="Of the node, unique in its cluster.")] = None,
    cluster: Cluster = "default",
    namespace: Annotated[str, Parameter(help="Of actors' names.")] = "default",
    hosts: Annotated[
        Literal["all", "own"], Parameter(help="With 'own', nothing that another node submits is placed here.")
    ] = "all",
    drain_timeout: Annotated[
        float, Parameter(help="Seconds that leaving may take after SIGINT or SIGTERM.")
    ] = DRAIN_SECONDS,
) -> int:
    """Run a node until SIGINT or SIGTERM, then drain it. Prints its address when it is up.

    A second signal ends it at once.
    """
    node = Node(
        seeds,
        listen=listen,
        advertise=advertise,
        num_cpus=num_cpus,
        labels=_labels(label or ()),
        name=name,
        cluster=cluster,
        namespace=namespace,
        hosts=hosts,
    )

    def up(node: Node) -> None:
        print(node.address, flush=True)
        members = len(node.runtime.members.addresses)
        others = f"with {members - 1} other{'s' * (members != 2)}" if members > 1 else "the first of its cluster"
        print(f"node {node.name} is up, {others}; SIGINT or SIGTERM ends it", file=sys.stderr)

    report = actorfw.run(live(node, up, timeout=drain_timeout))
    if report is not None and not report.complete:
        return _say(FAILED, listing.given_up(report))
    return OK


def _labels(given: Sequence[str]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"--label is {one!r}; it must be KEY=VALUE")
        labels[key] = value
    return labels


@app.command
def nodes(*, seeds: Seeds = None, cluster: Cluster = "default", as_json: Json = False) -> int:
    """List the members of a cluster."""
    rows = _visit(seeds, cluster, lambda node: _answer(node, "nodes"))
    listing.show_nodes([row.as_dict() for row in rows if not row.here], as_json=as_json)
    return OK


@app.command
def actors(*, seeds: Seeds = None, cluster: Cluster = "default", as_json: Json = False) -> int:
    """List the actors of a cluster."""
    rows = _visit(seeds, cluster, lambda node: _answer(node, "actors"))
    listing.show_actors([row.as_dict() for row in rows], as_json=as_json)
    return OK


@app.command
def objects(
    *,
    seeds: Seeds = None,
    cluster: Cluster = "default",
    limit: Annotated[int, Parameter(help="How many at most, the largest ones; up to 10,000.")] = 100,
    as_json: Json = False,
) -> int:
    """List the living objects of a cluster, the largest first; those that may be leaks say why."""
    rows, total = _visit(seeds, cluster, lambda node: _answer(node, "objects_counted", limit))
    listing.show_objects([row.as_dict() for row in rows], as_json=as_json)
    if len(rows) < total:
        print(f"{len(rows)} of {total} objects; --limit shows more", file=sys.stderr)
    return OK


@app.command
def kill(
    actor: Annotated[str, Parameter(help="Its name, or its id or the end of that.")],
    /,
    *,
    namespace: Annotated[str | None, Parameter(help="Of the name. [default: any]")] = None,
    seeds: Seeds = None,
    cluster: Cluster = "default",
    as_json: Json = False,
) -> int:
    """End an actor now."""
    row = _visit(seeds, cluster, lambda node: node.runtime.ask("kill_actor", actor, namespace))
    listing.show_actors([row.as_dict()], as_json=as_json)
    return OK


@app.command
def status(*, seeds: Seeds = None, cluster: Cluster = "default", as_json: Json = False) -> int:
    """Show what each member of a cluster has and does."""

    async def ask(node: Node) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await _answer(node, "status")
        return [row for row in rows if row["id"] != node.id]

    listing.show_status(_visit(seeds, cluster, ask), as_json=as_json)
    return OK


@app.command
def events(*, seeds: Seeds = None, cluster: Cluster = "default", as_json: Json = False) -> int:
    """Print what happens in a cluster, one event a line, until Ctrl-C."""

    async def follow(node: Node) -> None:
        happening = actorfw.events()
        print(f"node {node.name} listens; Ctrl-C ends it", file=sys.stderr, flush=True)
        async for event in happening:
            if getattr(event, "node_id", None) != node.id:  # of the visitor nobody wants to hear
                listing.show_event(event, as_json=as_json)

    _visit(seeds, cluster, follow)
    return OK


@app.command
def drain(
    node: Annotated[str, Parameter(help="Name, id or address of the node.")],
    /,
    *,
    seeds: Seeds = None,
    cluster: Cluster = "default",
    timeout: Annotated[float, Parameter(help="Seconds after which it leaves all the same.")] = DRAIN_SECONDS,
    as_json: Json = False,
) -> int:
    """Have a node leave the cluster without loss. Exit status 1 if something had to be given up."""
    report = _visit(seeds, cluster, lambda visitor: _answer(visitor, "drain", node, timeout))
    listing.show_drained(report, as_json=as_json)
    return OK if report.complete else FAILED


def _answer(node: Node, verb: str, *arguments: Any) -> Awaitable[Any]:
    return node.runtime.ask(verb, *arguments)


def _visit(seeds: list[str] | None, cluster: str, ask: Callable[[Node], Awaitable[T]]) -> T:
    """Be a member of a cluster that nothing is placed on, for as long as a question takes."""
    config = Config.from_environment()
    brief = dataclasses.replace(config, join_timeout=min(config.join_timeout, _VISIT_SECONDS))
    visitor = Node(seeds, cluster=cluster, num_cpus=0, memory=0, hosts="own", config=brief)
    if not visitor.seeds:
        raise UsageError("no cluster was named: give --seed HOST:PORT of a live node, or set ACTORFW_SEEDS")

    async def visit() -> T:
        async with visitor:
            return await ask(visitor)

    return actorfw.run(visit())
