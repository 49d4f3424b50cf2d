"""Becoming a member: by seeds, which are tried until one takes this node in, or as the founder of a cluster.

What the seeds stand for is `runtime.seeds`' affair. One that does not answer does not hold up the others for long.

A newcomer learns the view from its seed, and meets the members it is to have links with. It is `joining` until its seed
and up to two more have dialled it back: a member that can't be dialled would be no peer. The view itself, and what
becomes of it later, is in `runtime.members` and `runtime.failure`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.handshake import HANDSHAKE_SECONDS
from actorfw.core.records import Phase, Record
from actorfw.core.ring import MESH
from actorfw.io.tcp import is_refusal, split_address
from actorfw.runtime import current
from actorfw.runtime.peer import OwnAddressError
from actorfw.runtime.refs import Reply
from actorfw.values.errors import (
    ActorFwError,
    AuthenticationError,
    PeerLostError,
    PeerUnreachableError,
    ProtocolError,
    UsageError,
)
from actorfw.values.ids import node_id_of

if TYPE_CHECKING:
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.seeds import Found

__all__ = ["Joining"]

logger = logging.getLogger("actorfw.members")

RETRY_FIRST: Final = 0.1
RETRY_CAP: Final = 2.0
NEXT_SECONDS: Final = 0.5  # for which a seed is waited for alone
MEET_SECONDS: Final = 2.0  # one that stands still, and of which nobody knows yet, is met later
LOOK_SECONDS: Final = 1.0  # in which a member answers a founder, as a rule
OWN_SECONDS: Final = 2.0  # in which a node answers itself
WITNESS_SECONDS: Final = HANDSHAKE_SECONDS + 1.0  # a dial that fails takes one handshake's time at most
TOLD_SECONDS: Final = 1.0  # what a newcomer says to its witnesses travels by gossip as well
WITNESSES: Final = 3  # who dial a newcomer back: its seed and two more


class Joining:
    """How one node becomes a member, and helps others to."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._foreign: set[str] = set()  # addresses that look like this node's, and are not
        verbs = node.asks.verbs
        verbs["members"] = lambda peer, payload: node.failure.rows()
        verbs["dial_back"] = self._dial_back
        verbs["joined"] = self._joined

    async def join(self) -> None:
        """Become a member of the cluster that the seeds belong to, or found one.

        Raises:
            PeerUnreachableError: no seed could be joined within `join_timeout`; names each address tried and why.
            AuthenticationError, VersionMismatchError, ProtocolError: a seed answered and refused this node for good.
            UsageError: a live member has this node's name, or the seeds can't be used.
        """
        node = self.node
        until = node.env.time() + node.config.join_timeout
        pause = RETRY_FIRST
        started = False
        while True:
            found = await node.seeds.look()
            founds = await self._founds(found)
            others = [address for address in found.addresses if not founds or address not in found.first[:1]]
            if not started and others:
                started = True
                node.directory.start(founder=False)
            if founds:
                await self._found(others)
                return
            tried = found.unknown
            if await self._join_any(found.addresses, until, tried):
                return
            # Another seed may take this node in; if none does, trying again changes nothing.
            for error in tried.values():
                if not isinstance(error, (PeerUnreachableError, PeerLostError)):
                    raise error
            if node.env.time() + pause >= until:
                text = "; ".join(f"{address}: {error}" for address, error in tried.items())
                raise PeerUnreachableError(
                    f"node {node.name} could not join a cluster within {node.config.join_timeout:g} s (join_timeout)."
                    f" Tried {text}. "
                    "To found a cluster here, leave seeds out or put this node's own address first"
                )
            await asyncio.sleep(pause * node.env.random.uniform(0.5, 1.0))
            pause = min(pause * 2, RETRY_CAP)

    async def _found(self, others: list[str]) -> None:
        """Found the cluster, unless it is there: this node may have been its founder in a former life."""
        node = self.node
        tried: dict[str, Exception] = {}
        if others and await self._join_any(others, node.env.time() + LOOK_SECONDS, tried):
            return
        for address, error in tried.items():
            if isinstance(error, UsageError):
                raise error
            logger.info("seed %s is not there yet: %s", address, error)
        node.directory.start(founder=True)
        self._came_up()
        for address in others:
            node.env.create_task(self._try_seed(address), f"actorfw seed {address}")

    async def _join_any(self, addresses: list[str], until: float, tried: dict[str, Exception]) -> bool:
        """Whether one of them has taken this node in; else `tried` says why not.

        They are dialled in their order. One that has not answered after a while stays in the race beside the next ones.
        """
        node = self.node
        waiting = deque(addresses)
        dials: dict[asyncio.Task[Peer], str] = {}
        try:
            while waiting or dials:
                if waiting:
                    address = waiting.popleft()
                    dials[node.env.create_task(node.peers.dial(address), f"actorfw seed {address}")] = address
                left = until - node.env.time()
                await asyncio.wait(
                    dials,
                    timeout=max(0.0, min(left, NEXT_SECONDS) if waiting else left),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for dial in [dial for dial in dials if dial.done()]:
                    address = dials.pop(dial)
                    try:
                        peer = dial.result()
                        async with asyncio.timeout(max(0.0, until - node.env.time())):
                            await self._join_by(peer)
                        return True
                    except OwnAddressError:
                        continue
                    except (PeerUnreachableError, PeerLostError) as error:
                        tried[address] = error
                        if isinstance(error.__cause__, OSError) and is_refusal(error.__cause__):
                            node.seeds.absent(address)
                    except TimeoutError:
                        tried[address] = PeerUnreachableError("it took the connection, and then did not answer in time")
                    except (AuthenticationError, ProtocolError, UsageError) as error:
                        tried[address] = _naming(address, error)
                if node.env.time() >= until:
                    for address in (*dials.values(), *waiting):
                        tried[address] = PeerUnreachableError("it did not answer in time")
                    break
        finally:
            for dial in dials:
                if not dial.cancel() and not dial.cancelled():
                    dial.exception()  # it has failed at this moment, and nobody asks any more
        return False

    def _came_up(self) -> None:
        """Say so. From then on others place work here, at once, and what that calls has to find this node."""
        node = self.node
        if not node.open and not node.closing:
            node.open = True
            current.register(node)
        node.failure.set_phase(Phase.UP)
        node.seeds.enter()

    async def _founds(self, found: Found) -> bool:
        """Whether it is this node's to found the cluster: by the first seed, if there is any."""
        node = self.node
        if not node.options.seeds:
            return True
        view = node.failure.machine.view
        if any(record.phase is Phase.UP for life, record in view.items() if life != node.life):
            return False  # a seed that has gone meanwhile had told of them
        return node.seeds.enter_alone() or (bool(found.first) and await self._is_own(found.first[0]))

    async def _is_own(self, address: str) -> bool:
        node = self.node
        if address in (node.address, node.listen_address):
            return True
        if address in self._foreign or split_address(address)[1] != split_address(node.listen_address)[1]:
            return False
        self._foreign.add(address)
        # The same port, on another address of this machine perhaps: whoever answers there knows.
        try:
            async with asyncio.timeout(OWN_SECONDS):
                await node.peers.dial(address)
        except OwnAddressError:
            return True
        except (ActorFwError, TimeoutError):
            pass  # tried again with the others, where it counts
        return False

    async def _try_seed(self, address: str) -> None:
        try:
            await self.node.peers.dial(address)
        except ActorFwError as error:
            logger.info("seed %s is not there yet: %s", address, error)

    async def _join_by(self, peer: Peer) -> None:
        node = self.node
        view = node.failure.machine.view
        seed = view.get(peer.life)
        if seed is None or seed.phase is Phase.JOINING:
            # Two newcomers that name each other as seeds don't make a cluster: nobody has founded it.
            raise PeerUnreachableError(f"node {peer.name} is there, and has no cluster itself yet")
        rows = await node.asks.ask(peer, "members", None)
        records = [Record.from_wire(row) for row in rows]
        await self._check_name(records)
        others = [record for record in records if record.life not in (node.life, peer.life) and not record.accusers]
        # All of them while that is what each member does; of more, those that are to dial this node back.
        if len(others) > MESH:
            firm = [record for record in others if record.phase is Phase.UP]
            others = node.env.random.sample(firm, min(WITNESSES, len(firm)))
        meetings = [node.peers.task(self._meet(record), f"meet {record.name}") for record in others]
        if meetings:
            await asyncio.wait(meetings, timeout=MEET_SECONDS)
        node.failure.learn(peer.life, rows)
        witnesses = [peer, *self._firm(but=peer)][:WITNESSES]
        answers = await asyncio.gather(
            *(self._dialled_back(witness, patiently=witness is peer) for witness in witnesses), return_exceptions=True
        )
        if isinstance(answers[0], ActorFwError):
            raise answers[0]
        failed = [answer for answer in answers if isinstance(answer, str)]
        if failed:
            raise PeerUnreachableError(
                f"it was reached, but its side can't dial this node back: {'; '.join(failed)}. "
                "Set `listen` and `advertise` to an address that the other members can dial"
            )
        await self._check_name(view.values())
        self._came_up()
        me = node.failure.me.to_wire()
        told = [node.asks.ask(witness, "joined", me) for witness in (peer, *self._firm(but=peer))[:WITNESSES]]
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                await asyncio.gather(*told, return_exceptions=True)
        except TimeoutError:
            pass

    def _firm(self, *, but: Peer) -> list[Peer]:
        """Members that are up and have a link: who is joining itself, or stands still, may never answer."""
        view = self.node.failure.machine.view
        up = {life for life, record in view.items() if record.phase is Phase.UP and not record.accusers}
        return [p for life, p in self.node.peers.by_life.items() if life in up and p is not but and p.connected]

    async def _dialled_back(self, witness: Peer, *, patiently: bool) -> Any:
        """What a witness says about this node's address; of the others than the seed, silence is no objection."""
        try:
            async with asyncio.timeout(None if patiently else WITNESS_SECONDS):
                return await self.node.asks.ask(witness, "dial_back", self.node.address)
        except TimeoutError:
            return None

    async def _check_name(self, records: Iterable[Record]) -> None:
        """Of two newcomers with one name, the one with the smaller life has it."""
        node = self.node
        for record in list(records):
            if record.life == node.life or record.name != node.name:
                continue
            if record.phase is Phase.JOINING and record.life > node.life:
                continue
            try:
                async with asyncio.timeout(OWN_SECONDS):
                    await node.peers.dial(record.address, expect=record.life)
            except (ActorFwError, TimeoutError) as error:
                # This node's own former life, most likely, of which the others don't know yet that it is over.
                raise PeerUnreachableError(
                    f"the cluster has a member named {node.name!r} already, at {record.address}, which does not answer:"
                    " its name is free when the cluster has found out that it is dead"
                ) from error
            raise UsageError(
                f"the cluster has a member named {node.name!r} already, at {record.address}: "
                "give this node another name"
            )

    async def _meet(self, record: Record) -> None:
        node = self.node
        try:
            await node.peers.dial(record.address, expect=record.life)
        except ActorFwError as error:
            logger.info("member %s at %s can't be reached: %s", node_id_of(record.life), record.address, error)

    def _dial_back(self, peer: Peer, address: str) -> Reply[Any]:
        """A newcomer wants to be dialled; answers None, or why it failed."""
        node = self.node
        reply: Reply[Any] = Reply(node)

        async def probe() -> None:
            try:
                await node.peers.probe(address, peer.life)
            except ActorFwError as error:
                reply._settle(f"node {node.name} could not reach {address}: {error}")
            else:
                reply._settle(None)

        node.env.create_task(probe(), "actorfw dial back")
        return reply

    def _joined(self, peer: Peer, row: list[Any]) -> None:
        """A newcomer is up; the others hear of it by and by."""
        record = Record.from_wire(row)
        if record.life == peer.life:
            self.node.failure.learn(peer.life, [row])


def _naming(address: str, error: ActorFwError) -> ActorFwError:
    """The error, if it names the address that it is about; else one like it that does."""
    if address in str(error):
        return error
    named = type(error)(f"{address}: {error}")
    named.__cause__ = error
    return named
