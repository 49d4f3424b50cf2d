"""`actorfw start`: a process that is nothing but a node."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import actorfw
from actorfw.api.environment import completed
from actorfw.api.life import Node
from actorfw.api.member import live
from actorfw.api.verbs import DRAIN_SECONDS
from actorfw.cli import tables
from actorfw.cli.exits import FAILED, OK, say
from actorfw.cli.options import Json, Where, numbers, pairs, parse_size
from actorfw.cli.systemd import Notifier
from actorfw.cli.visiting import place
from actorfw.runtime.rows import DrainReport
from actorfw.values.config import Config
from actorfw.values.errors import UsageError

__all__ = ["start"]


def start(
    *,
    where: Where | None = None,
    alone: Annotated[
        bool,
        Parameter(negative=(), help="Found a cluster that your other nodes and commands on this machine don't find."),
    ] = False,
    listen: Annotated[
        str | None,
        Parameter(help="Where to accept peers, HOST:PORT; port 0 takes a free one. [default: 127.0.0.1:0]"),
    ] = None,
    advertise: Annotated[str | None, Parameter(help="What peers dial, where it differs from --listen.")] = None,
    name: Annotated[str | None, Parameter(help="Of the node, unique in its cluster.")] = None,
    label: Annotated[
        list[str] | None, Parameter(negative=(), help="KEY=VALUE, for scheduling by labels; may be repeated.")
    ] = None,
    num_cpus: Annotated[float | None, Parameter(help="CPUs to offer. [default: the machine's]")] = None,
    num_gpus: Annotated[float | None, Parameter(help="GPUs to offer, numbered from 0. [default: 0]")] = None,
    memory: Annotated[
        str | None, Parameter(help="Memory for tasks and actors to share out, such as 8GiB. [default: what there is]")
    ] = None,
    resource: Annotated[
        list[str] | None, Parameter(negative=(), help="NAME=AMOUNT of a resource of your own; may be repeated.")
    ] = None,
    object_store_memory: Annotated[
        str | None, Parameter(help="Shared memory for values at most, such as 512MiB. [default: 30 % of memory]")
    ] = None,
    namespace: Annotated[str | None, Parameter(help="Of actors' names. [default: default]")] = None,
    hosts: Annotated[
        Literal["all", "own"] | None,
        Parameter(help="With 'own', nothing that another node submits is placed here. [default: all]"),
    ] = None,
    config: Annotated[str | None, Parameter(help="TOML file with further settings. [default: ACTORFW_CONFIG]")] = None,
    drain_timeout: Annotated[
        float, Parameter(help="Seconds that leaving may take after SIGINT or SIGTERM.")
    ] = DRAIN_SECONDS,
    health: Annotated[
        str | None,
        Parameter(help="Answer /livez and /readyz over HTTP at HOST:PORT. [default: ACTORFW_HEALTH, else nowhere]"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Run a node until SIGINT or SIGTERM, then drain it. Prints its address when it is up.

    Without --seed it joins your other nodes on this machine, or founds the cluster if there are none. What is not given
    here may be in the environment: ACTORFW_LISTEN for --listen, and so on. A second signal ends it at once. Under
    systemd (Type=notify) it tells when it is up.
    """
    where = where or Where()
    if alone and where.seeds:
        raise UsageError("--alone founds a cluster, and --seed names one to join: give one of them")
    seeds, cluster = place(where)
    offered = parse_size("--memory", memory)
    options: dict[str, Any] = {
        "listen": listen,
        "advertise": advertise,
        "name": name,
        "labels": pairs("--label", label) or None,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "memory": None if offered is None else float(offered),
        "resources": numbers("--resource", pairs("--resource", resource)) or None,
        "object_store_memory": parse_size("--object-store-memory", object_store_memory),
        "cluster": cluster,
        "namespace": namespace,
        "hosts": hosts,
        "config": None if config is None else Config.from_file(config),
        **where.given(),
    }
    given = {option: value for option, value in completed(options, os.environ).items() if value is not None}
    node = Node([] if alone else seeds, **given)
    if not alone:
        node.be_findable()
    health = health or os.environ.get("ACTORFW_HEALTH", "").strip() or None
    notifier = Notifier(os.environ)

    def up(node: Node) -> None:
        members = len(node.runtime.members.addresses)
        others = f"with {members - 1} other{'s' * (members != 2)}" if members > 1 else "the first of its cluster"
        if as_json:
            fields = {"name": node.name, "id": node.id, "address": node.address, "cluster": cluster}
            print(json.dumps({**fields, "pid": node.runtime.env.pid, "members": members}), flush=True)
        else:
            print(node.address, flush=True)
        print(f"node {node.name} is up, {others}; SIGINT or SIGTERM ends it", file=sys.stderr, flush=True)
        notifier.tell("READY=1", f"STATUS=up at {node.address}, {others}")

    def leaving() -> None:
        notifier.tell("STOPPING=1", f"STATUS=leaving, for {drain_timeout:g} s at most")

    async def whole() -> DrainReport | None:
        async with AsyncExitStack() as around:
            await around.enter_async_context(notifier.watched())
            if health is not None:
                from actorfw.cli.health import answering  # aiohttp takes longer to load than the rest

                bound = await around.enter_async_context(answering(health, node))
                print(f"http://{bound}/livez and /readyz answer", file=sys.stderr, flush=True)
            return await live(node, up, timeout=drain_timeout, leaving=leaving)

    report = actorfw.run(whole())
    if report is not None and not report.complete:
        return say(tables.given_up(report.as_dict()), FAILED)
    return OK
