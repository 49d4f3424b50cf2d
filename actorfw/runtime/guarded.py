"""`Guarded`: what its guardian knows of one actor, and how that travels to another guardian.

A value; what follows from it is the business of `core.guardian` (its life), `runtime.guardians` (carrying that out) and
`runtime.naming` (its name, and whether another actor has it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.core.guardian import UP, Guardian
from actorfw.runtime.definitions import Interface, Recipe
from actorfw.values.ids import node_id_of
from actorfw.wire.payload import Packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import Reply
    from actorfw.values.ids import RefId

__all__ = ["ALIAS", "NAMING", "RESTART_BACKOFF", "Guarded"]

NAMING: Final = "naming"
ALIAS: Final = "alias"

RESTART_BACKOFF: Final = 0.1
"""Seconds: the longest pause before the first restart, unless `restart_backoff` says otherwise."""


class Guarded:
    """What its guardian knows of one actor."""

    __slots__ = (
        "args",
        "asked_end",
        "before",
        "counted_at",
        "deps",
        "excluded",
        "hashed",
        "host",
        "id",
        "interface",
        "limit",
        "machine",
        "name",
        "naming",
        "options",
        "out",
        "recipe",
        "target",
        "told_infeasible",
        "waiting",
    )

    def __init__(self, id: RefId, hashed: bytes, recipe: Recipe, interface: Interface) -> None:
        self.id = id
        self.hashed = hashed
        self.recipe = recipe
        self.interface = interface
        self.args: Any = None
        self.deps: Any = None
        self.options: Mapping[str, Any] = {}
        self.machine = Guardian()
        self.naming = False
        self.host: Peer | None = None  # None: this node, once it is starting
        self.counted_at: bytes | None = None  # the member whose load it is part of
        self.before = ""  # how the incarnation before ended
        self.out: Any = None  # the error that every later call gets
        self.name: tuple[str, str] | None = None
        self.target: RefId | None = None  # the older actor of this name, with get_if_exists
        self.asked_end = ""  # while it has no host that could be told
        self.excluded: set[bytes] | None = None
        self.told_infeasible = False
        self.limit: Any = None  # the timer of its schedule_timeout
        self.waiting: list[Reply[Any]] | None = None  # for its end

    def begin(self, options: Mapping[str, Any]) -> None:
        """It is made with these options."""
        self.options = options
        self.machine = Guardian(options.get("max_restarts") or 0, options.get("restart_backoff", RESTART_BACKOFF))

    @property
    def state(self) -> str:
        """A state of `core.guardian`, or "naming" or "alias" before it is known whether this actor is to be."""
        if self.target is not None:
            return ALIAS
        return NAMING if self.naming else self.machine.state

    @property
    def incarnation(self) -> int:
        return self.machine.incarnation

    @property
    def reason(self) -> str:
        return self.machine.reason

    @property
    def movable(self) -> bool:
        """Whether another incarnation may follow, so that what makes one is kept."""
        return bool(self.options.get("max_restarts") or self.options.get("detached"))

    # -- to another guardian -------------------------------------------------------------------------------------------

    def to_wire(self, node: Node) -> Packed:
        """All of it as one value; the refs and definitions in the arguments are the value's."""
        args = self.args
        packed = args if type(args) is Packed else None
        machine = self.machine
        options = node.codec.pack(dict(self.options))
        codes = [self.hashed, self.recipe.code]
        refs: list[Any] = []
        if packed is not None:
            codes += packed.codes
            refs += packed.refs
        if type(options) is Packed:
            codes += options.codes
            options = options.to_wire()
        head = [
            self.hashed,
            self.interface.to_wire(),
            packed.data if packed is not None else args,
            packed is not None,
            self.deps,
            options,
            self.name,
            [machine.state, machine.incarnation, machine.host, machine.left, machine.how],
        ]
        data: bytes = msgpack.packb(head)
        return Packed(data, packed.buffers if packed is not None else [], refs, list(dict.fromkeys(codes)))

    @classmethod
    def from_wire(cls, node: Node, id: RefId, wire: Packed) -> Guarded:
        """The inverse of `to_wire`, at the node that guards it from now on; the definitions have come before."""
        hashed, interface, args, packed, deps, options, name, machine = msgpack.unpackb(wire.data)
        if type(options) is list:
            options = Packed.from_wire(options)
        actor = cls(id, hashed, node.recipe(hashed), node.interfaces.known(Interface.from_wire(interface)))
        actor.begin(node.codec.unpack(options))
        actor.args = args
        if packed:
            recipe = {hashed, actor.recipe.code}
            codes = [code for code in wire.codes if code not in recipe]
            actor.args = node.objects.keep(Packed(args, wire.buffers, wire.refs, codes))
        actor.deps = [(bytes(dep[0]), dep[1], dep[2]) for dep in deps] if deps else None
        actor.name = tuple(name) if name is not None else None
        made = actor.machine
        made.state, made.incarnation, made.host, made.left, made.how = machine
        return actor

    def info(self, node: Node, id: str) -> dict[str, Any]:
        """What `actorfw.info` tells."""
        state = self.state
        if state not in ("up", "ended"):
            state = "restarting" if self.incarnation > 1 else "starting"
        return {
            "id": id,
            "name": self.name[1] if self.name is not None else None,
            "namespace": self.name[0] if self.name is not None else None,
            "class_name": self.interface.name,
            "state": state,
            "incarnation": self.incarnation,
            "reason": self.reason if state == "ended" else self.before if state != UP else "",
            "node_id": node.id if self.host is None else node_id_of(self.host.life),
            "node": node.name if self.host is None else self.host.name,
        }
