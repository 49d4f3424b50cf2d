"""`Packages`: the code that environments bring, on its way between nodes, and what of it is in use here.

A package is named by the hash of its content. Who needs one asks for it in pieces: first the node that wants the work
done, then all others, since whoever has it serves it. What came is checked against the hash before it has that name
here. Leaves to others: which piece is asked of whom (`core.piecefetch`), where packages lie and which are removed
(`io.packages`), and what is made of them (`runtime.environments`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from actorfw.core.piecefetch import PIECE, PieceFetch
from actorfw.runtime.hands import Hands
from actorfw.runtime.refs import Reply
from actorfw.values.errors import ActorFwError, PeerUnreachableError, ProtocolError, UnschedulableError, UsageError

if TYPE_CHECKING:
    from actorfw.io.packages import Held, PackageFiles, Part
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.values.environment import Environment

__all__ = ["Packages"]

logger = logging.getLogger("actorfw.node")

T = TypeVar("T")

_SILENCE: Final = 10.0  # seconds that a source may take for a piece while others may have it
_LENT: Final = 60.0  # seconds for which a package that others ask for stays open
_KEPT_SHARE: Final = 0.5  # of the room for packages, for those that were submitted here and are not in use


class _Used:
    """A package in use here."""

    __slots__ = ("count", "held")

    def __init__(self, held: Held) -> None:
        self.held = held
        self.count = 0


class Packages:
    """The packages that one node uses, keeps for what was submitted on it, and serves. On the loop, but for `files`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._files: PackageFiles | None = None
        self._hands = Hands(2)
        self._used: dict[bytes, _Used] = {}
        self._coming: dict[bytes, asyncio.Task[Held]] = {}
        self._kept: OrderedDict[bytes, Held] = OrderedDict()  # the one that was submitted with last at the end
        self._keeping: set[bytes] = set()
        self._lent: dict[bytes, Held] = {}
        self._asked: dict[bytes, float] = {}  # when somebody last asked for one of these
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self.fetched = 0
        node.asks.verbs["package"] = self._on_package

    def files(self) -> PackageFiles:
        """Where they lie. Any thread."""
        if self._files is None:
            self._files = self.node.env.package_files(self.node.config.package_cache)
        return self._files

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            coroutine.close()
            return
        task = self.node.env.create_task(coroutine, "actorfw package")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def do(self, fn: Callable[[], T]) -> T:
        """Call what blocks, beside the loop where there are threads."""
        return await self._hands.do(fn) if self.node.has_threads else fn()

    # -- in use --------------------------------------------------------------------------------------------------------

    async def get(self, digest: bytes, source: bytes) -> Held:
        """A package, fetched if it is not here; to be given back with `release`.

        Args:
            digest: which.
            source: the life that is likeliest to have it.

        Raises:
            UnschedulableError: nobody has it, or it can't be kept here; says why.
        """
        while (used := self._used.get(digest)) is None:  # who waited too may have given it back already
            coming = self._coming.get(digest)
            if coming is None:
                coming = self._coming[digest] = self.node.env.create_task(
                    self._bring(digest, source), "actorfw package"
                )
                coming.add_done_callback(lambda done: self._came(digest, done))
            await asyncio.shield(coming)
        used.count += 1
        return used.held

    def _came(self, digest: bytes, done: asyncio.Task[Held]) -> None:
        self._coming.pop(digest, None)
        if not done.cancelled() and done.exception() is None:
            if self._closed:
                done.result().release()
            else:
                self._used[digest] = _Used(done.result())

    def release(self, digest: bytes) -> None:
        """One use of it is over."""
        used = self._used.get(digest)
        if used is not None:
            used.count -= 1
            if used.count <= 0:
                del self._used[digest]
                used.held.release()

    def keep(self, environment: Environment) -> None:
        """Work with this environment was submitted here: others will ask this node first."""
        for digest in environment.packages:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            elif digest not in self._keeping:
                self._start(self.keep_one(digest))

    async def keep_one(self, digest: bytes) -> None:
        """The same for one package that is here."""
        self._keeping.add(digest)
        try:
            held = await self.do(lambda: self.files().find(digest))
        except (OSError, UsageError):
            held = None
        finally:
            self._keeping.discard(digest)
        if held is None:
            return  # it went with its last user; who has it still is found
        if self._closed or digest in self._kept:
            held.release()
            return
        self._kept[digest] = held
        room = int(self.node.config.package_cache * _KEPT_SHARE)
        while len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > room:
            self._kept.popitem(last=False)[1].release()

    # -- from others ---------------------------------------------------------------------------------------------------

    async def _bring(self, digest: bytes, source: bytes) -> Held:
        try:
            held = await self.do(lambda: self.files().find(digest))
            return held if held is not None else await self._fetch(digest, source)
        except OSError as error:
            raise UnschedulableError(
                f"the package {digest.hex()[:12]} can't be kept on node {self.node.name}: {error.strerror or error}",
                ran=False,
            ) from error
        except UsageError as error:  # of the folder for packages here, which is not the submitter's fault
            raise UnschedulableError(f"node {self.node.name} can't keep packages: {error}", ran=False) from error

    def _sources(self, source: bytes) -> list[bytes]:
        node = self.node
        first = [source, node.heirs.of(source)]
        linked = [life for life in node.peers.by_life if life in node.members.facts]
        found = dict.fromkeys((*first, *linked, *node.members.facts))
        known = node.members.facts
        return [life for life in found if life != node.life and (life in known or life in node.peers.by_life)]

    async def _fetch(self, digest: bytes, source: bytes) -> Held:
        from actorfw.io.packages import DamagedPackageError

        fetch = PieceFetch(self._sources(source), self.node.config.package_limit)
        part = await self.do(self.files().part)
        try:
            while True:
                await self._pieces(digest, fetch, part)
                try:
                    held = await self.do(partial(part.keep, digest))
                except DamagedPackageError as error:
                    fetch.false(str(error))
                    part = await self.do(self.files().part)
                    continue
                self.fetched += 1
                return held
        finally:
            part.drop()

    async def _pieces(self, digest: bytes, fetch: PieceFetch[bytes], part: Part) -> None:
        """Have all pieces written.

        Raises:
            UnschedulableError: nobody is left who may have them.
        """
        came: asyncio.Queue[tuple[bytes, int, Any]] = asyncio.Queue()
        peer: Peer | None = None
        while not fetch.complete:
            life = fetch.source
            if life is None:
                raise UnschedulableError(
                    f"node {self.node.name} found nobody that has the package {digest.hex()[:12]} of a runtime_env: "
                    f"{'; '.join(fetch.why) or 'there is no other node'}",
                    ran=False,
                )
            if peer is None or peer.life != life:
                peer = await self._reached(life)
                if peer is None:
                    fetch.failed(life, f"the node {life.hex()[:8]} can't be reached")
                    continue
            for at in fetch.asks():
                reply = self.node.asks.ask(peer, "package", [digest, at])
                reply.add_done_callback(lambda done, life=life, at=at: came.put_nowait((life, at, done)))  # type: ignore[misc]
            try:
                async with asyncio.timeout(_SILENCE):
                    sender, at, answer = await came.get()
            except TimeoutError:
                fetch.failed(life, f"node {peer.name} did not answer for {_SILENCE:g} s")
                continue
            await self._take(fetch, part, peer, sender, at, answer)

    async def _take(
        self, fetch: PieceFetch[bytes], part: Part, peer: Peer, sender: bytes, at: int, answer: Reply[Any]
    ) -> None:
        try:
            found = answer.result()
        except ActorFwError as error:
            fetch.failed(sender, f"node {peer.name}: {error}")
            return
        if found is None:
            fetch.failed(sender, f"node {peer.name} has not got it")
            return
        try:
            total, piece = found
            if not isinstance(total, int) or not isinstance(piece, bytes):
                raise ProtocolError("it answers with something else than a piece")
            if fetch.came(sender, at, total, len(piece)):
                await self.do(lambda: _write(part, at, piece))
        except (ProtocolError, TypeError, ValueError) as error:
            fetch.failed(sender, f"node {peer.name}: {error}")

    async def _reached(self, life: bytes) -> Peer | None:
        node = self.node
        found: asyncio.Future[Peer | PeerUnreachableError] = node.env.create_future()
        address = node.members.addresses.get(life, "")

        def reached(peer: Peer | PeerUnreachableError) -> None:
            if not found.done():
                found.set_result(peer)

        node.reach(life, address, reached)
        try:
            async with asyncio.timeout(_SILENCE):
                peer = await found
        except TimeoutError:
            return None
        return None if isinstance(peer, PeerUnreachableError) else peer

    # -- for others ----------------------------------------------------------------------------------------------------

    def _on_package(self, peer: Peer, payload: Any) -> Reply[Any]:
        """A node asks for a piece: [bytes in all, the piece], or None if the package is not here."""
        digest, at = payload
        if not isinstance(digest, bytes) or not isinstance(at, int) or at < 0:
            raise ProtocolError("this is no request for a piece of a package")
        reply: Reply[Any] = Reply(self.node)
        self._start(self._answer(digest, at, reply))
        return reply

    async def _answer(self, digest: bytes, at: int, reply: Reply[Any]) -> None:
        try:
            held = await self._lend(digest)
            if held is None:
                reply._settle(None)
            else:
                piece = await self.do(lambda: held.read(at, PIECE))
                reply._settle([held.size, piece])
        except (OSError, UsageError) as error:
            reply._fail(UnschedulableError(f"the package can't be read on node {self.node.name}: {error}"))

    async def _lend(self, digest: bytes) -> Held | None:
        self._asked[digest] = self.node.env.time()
        used = self._used.get(digest)
        held = used.held if used is not None else self._kept.get(digest) or self._lent.get(digest)
        if held is not None:
            return held
        if digest in self._coming:
            return None  # two that wait for each other would wait for good
        held = await self.do(lambda: self.files().find(digest))
        if held is None:
            self._asked.pop(digest, None)
            return None
        there = self._lent.get(digest)
        if there is not None or self._closed:
            held.release()
            return there
        self._lent[digest] = held
        self.node.env.call_later(_LENT, self._unlend, digest)
        return held

    def _unlend(self, digest: bytes) -> None:
        left = self._asked.get(digest, 0.0) + _LENT - self.node.env.time()
        if left > 0 and not self._closed:
            self.node.env.call_later(left, self._unlend, digest)
            return
        self._asked.pop(digest, None)
        held = self._lent.pop(digest, None)
        if held is not None:
            held.release()

    async def stop(self) -> None:
        """The node closes: nothing more is fetched or served."""
        self._closed = True
        coming = list(self._coming.values())
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, *self._running, return_exceptions=True)

    def close(self) -> None:
        """And nothing is in use any more."""
        for held in (*(used.held for used in self._used.values()), *self._kept.values(), *self._lent.values()):
            held.release()
        self._used.clear()
        self._kept.clear()
        self._lent.clear()


def _write(part: Part, at: int, piece: bytes) -> None:
    part.file.seek(at)
    part.file.write(piece)
