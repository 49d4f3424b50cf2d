"""`Guarded`: what its guardian knows of one actor, and how that travels to another guardian.

A value; what follows from it is the business of `core.guardian` (its life), `runtime.guardians` (carrying that out) and
`runtime.naming` (its name, and whether another actor has it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack

from actorfw.core.guardian import ENDED, UP, Guardian
from actorfw.runtime.definitions import Interface, Recipe
from actorfw.values.ids import as_bytes, node_id_of
from actorfw.values.rare import Rare
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
        "_rare",
        "args",
        "counted_at",
        "hashed",
        "host",
        "id",
        "interface",
        "machine",
        "options",
        "recipe",
    )

    deps: Rare[Any] = Rare(None)
    name: Rare[tuple[str, str] | None] = Rare(None)
    naming: Rare[bool] = Rare(False)
    target: Rare[RefId | None] = Rare(None)
    """The older actor of this name, with get_if_exists."""
    before: Rare[str] = Rare("")
    """How the incarnation before ended."""
    out: Rare[Any] = Rare(None)
    """The error that every later call gets."""
    asked_end: Rare[str] = Rare("")
    """While it has no host that could be told."""
    excluded: Rare[set[bytes] | None] = Rare(None)
    told_infeasible: Rare[bool] = Rare(False)
    limit: Rare[Any] = Rare(None)
    """The timer of its schedule_timeout."""
    waiting: Rare[list[Reply[Any]] | None] = Rare(None)
    """For its end."""

    def __init__(self, id: RefId, hashed: bytes, recipe: Recipe, interface: Interface) -> None:
        self._rare: dict[str, Any] | None = None
        self.id = id
        self.hashed = hashed
        self.recipe = recipe
        self.interface = interface
        self.args: Any = None
        self.options: Mapping[str, Any] = {}
        self.machine = Guardian()
        self.host: Peer | None = None  # None: this node, once it is starting
        self.counted_at: bytes | None = None  # the member whose load it is part of

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
        """All of it as one value; the refs and definitions in its arguments, or in its error, are the value's."""
        machine = self.machine
        args = self.out if machine.state == ENDED else self.args  # of an actor that has ended only its error is asked
        packed = args if type(args) is Packed else None
        alias: list[Any] | None = None
        if self.target is not None:
            address = self.out._address if self.out is not None else node.members.addresses.get(self.target[0], "")
            alias = [*self.target, address]
        # Of its environment the recipe has all that matters from here on.
        options = node.codec.pack({name: value for name, value in self.options.items() if name != "runtime_env"})
        codes = [self.hashed, self.recipe.code]
        refs: list[Any] = []
        if packed is not None:
            codes += packed.codes
            refs += packed.refs
        if type(options) is Packed:
            codes += options.codes
            options = options.portable()
        head = [
            self.hashed,
            self.interface.to_wire(),
            packed.data if packed is not None else args,
            packed is not None,
            self.deps,
            options,
            self.name if alias is None else None,
            [machine.state, machine.incarnation, machine.host, machine.left, machine.how, machine.reason],
            [self.naming, self.asked_end, alias, self.before],
        ]
        data: bytes = msgpack.packb(head)
        return Packed(data, packed.buffers if packed is not None else [], refs, list(dict.fromkeys(codes)))

    @classmethod
    def from_wire(cls, node: Node, id: RefId, wire: Packed) -> tuple[Guarded, str]:
        """The inverse of `to_wire`, at the node that guards it from now on; the definitions have come before.

        Returns:
            It, and where the older actor is looked for that it stands for.
        """
        hashed, interface, args, packed, deps, options, name, machine, naming = msgpack.unpackb(wire.data)
        if type(options) is list:
            options = Packed.from_wire(options)
        actor = cls(id, hashed, node.recipe(hashed), node.interfaces.known(Interface.from_wire(interface)))
        actor.begin(node.codec.unpack(options))
        if actor.recipe.environment is not None:
            node.environments.expected(hashed, id[0])
        actor.args = args
        if packed:
            recipe = {hashed, actor.recipe.code}
            codes = [code for code in wire.codes if code not in recipe]
            actor.args = node.objects.keep(Packed(args, wire.buffers, wire.refs, codes))
        actor.deps = [(as_bytes(dep[0]), dep[1], dep[2]) for dep in deps] if deps else None
        actor.name = tuple(name) if name is not None else None
        made = actor.machine
        made.state, made.incarnation, made.host, made.left, made.how, made.reason = machine
        if made.state == ENDED:
            actor.args, actor.out = None, actor.args
        actor.naming, actor.asked_end, alias, before = naming
        if before:
            actor.before = before
        if alias is None:
            return actor, ""
        actor.target = (as_bytes(alias[0]), alias[1])
        return actor, alias[2]

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
