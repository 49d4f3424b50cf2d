"""Dialling: reaching an address, once for whoever asks or again and again for a session without a link.

How a connection becomes a link is `runtime.links`' affair, which of two wins is decided by `core.session`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, cast

from actorfw.core.handshake import HANDSHAKE_SECONDS
from actorfw.core.session import DialFailure
from actorfw.io.tcp import is_refusal, split_address
from actorfw.runtime.links import AnotherLifeError, DialGreeting, SupersededError
from actorfw.values.errors import ActorFwError, PeerUnreachableError
from actorfw.values.ids import Life

if TYPE_CHECKING:
    from actorfw.runtime.peer import Peer
    from actorfw.runtime.peers import Peers

__all__ = ["Dials"]


class Dials:
    """The dials of one node."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.env = peers.env
        self._greetings: dict[Life, DialGreeting] = {}

    async def dial(self, address: str, *, expect: Life | None = None) -> Peer:
        """Reach the node at `address` and have a session with it; a link that is there already will do.

        Args:
            address: "host:port".
            expect: the only life that will do, or None.

        Raises:
            PeerUnreachableError: nobody answers, somebody else does, or one of both lives is dead to the other.
            AuthenticationError: it does not know the secret.
            VersionMismatchError: it speaks another version of the protocol or runs another Python.
            ProtocolError: another cluster, or what answers is no node.
            OwnAddressError: it is this node itself.
        """
        try:
            return await self._reach(address, expect)
        except (OSError, AnotherLifeError) as error:
            raise PeerUnreachableError(f"{address} can't be reached: {_why(error)}") from error
        finally:
            self.peers.forget_unborn()

    async def _reach(self, address: str, expect: Life | None) -> Peer:
        until = self.env.time() + HANDSHAKE_SECONDS
        while True:
            known = self.peers.known(expect) if expect is not None else None
            if known is not None and known.connected:
                return known
            try:
                return cast("Peer", await self._attempt(address, expect, only_probe=False))
            except SupersededError as race:
                # The other side dials us at this moment, or knows of a later link than we do.
                peer = race.peer
                patience = min(until - self.env.time(), 0.01 + 0.04 * self.env.random.random())
                if peer is not None and await self._wait_for(peer, patience):
                    return peer
                if self.env.time() >= until:
                    raise TimeoutError("it kept preferring another link that never came") from None

    async def probe(self, address: str, life: Life) -> None:
        """Make sure that `life` answers at `address`, and hang up.

        Raises:
            PeerUnreachableError, AuthenticationError, VersionMismatchError, ProtocolError: as `dial`.
        """
        try:
            await self._attempt(address, life, only_probe=True)
        except (OSError, AnotherLifeError) as error:
            raise PeerUnreachableError(f"{address} can't be reached: {_why(error)}") from error

    async def _attempt(self, address: str, expect: Life | None, *, only_probe: bool) -> Peer | None:
        host, port = split_address(address)
        done: asyncio.Future[Peer | None] = self.env.create_future()
        greeting = DialGreeting(self.peers, address, expect, only_probe, done)
        if expect is not None:
            self._greetings[expect] = greeting
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self.env.dial(lambda: greeting, host, port)
                return await done
        except TimeoutError:
            raise TimeoutError(f"no answer within {HANDSHAKE_SECONDS:g} s") from None
        finally:
            if expect is not None and self._greetings.get(expect) is greeting:
                del self._greetings[expect]
            if not done.done():
                done.cancel()
                greeting.fail(ConnectionAbortedError("the dial was given up"))
            elif not done.cancelled():
                done.exception()  # it may have failed in another way first, and then nobody has read this one

    def again(self, peer: Peer, delay: float) -> None:
        """Dial for a session that has no link, after `delay` seconds."""
        if peer.dial_timer is not None:
            peer.dial_timer.cancel()
            peer.dial_timer = None
        if delay > 0:
            peer.dial_timer = self.env.call_later(delay, self.again, peer, 0.0)
        elif peer.dial_task is None and peer.address and peer.session.may_dial() and not self.peers.closing:
            peer.dial_task = self.peers.task(self._redial(peer), f"dial {peer.name}")

    async def knock(self, life: Life, address: str) -> Literal["linked", "refused", "unreachable", "another_life"]:
        """Whether `life` answers at `address`, in the words of evidence."""
        try:
            await self._attempt(address, life, only_probe=True)
        except Exception as error:  # whatever goes wrong, it could not be reached
            how = _kind_of(error)
            return "another_life" if how == "another life" else "refused" if how == "refused" else "unreachable"
        return "linked"

    def accepted(self, life: Life) -> bool:
        """Whether a dial to this life has found a machine that takes connections, and no process that answers yet."""
        greeting = self._greetings.get(life)
        return greeting is not None and greeting.connected

    async def _redial(self, peer: Peer) -> None:
        try:
            await self._attempt(peer.address, peer.life, only_probe=False)
            return
        except Exception as error:  # whatever goes wrong, it is tried again
            why, how = error, _kind_of(error)
        finally:
            peer.dial_task = None
        peer.last_failure = _why(why)
        chance = self.env.random.random()
        if peer.ended is None:
            self.peers.carry_out(peer, peer.session.dial_failed(how, f"{peer.address}: {_why(why)}", chance))

    async def _wait_for(self, peer: Peer, seconds: float) -> bool:
        """Whether the peer has a link within `seconds`."""
        waiter: asyncio.Future[None] = self.env.create_future()
        peer.waiters.append(waiter)
        await asyncio.wait([waiter], timeout=max(0.0, seconds))
        if not waiter.done():
            waiter.cancel()
        return peer.connected


def _kind_of(error: Exception) -> DialFailure:
    match error:
        case SupersededError():
            return "epoch"
        case AnotherLifeError():
            return "another life"
        case OSError():
            return "refused" if is_refusal(error) else "unreachable"
        case ActorFwError():
            return "unreachable"
        case _:
            raise error


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and is_refusal(error):
        return "connection refused, nobody listens there"  # each loop words it in its own way
    return str(error) or type(error).__name__
