"""As much of a node as worker processes need: a table of handlers, and the words in which tests speak of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actorfw.runtime.channel import WorkerProcess, Zygote
from actorfw.runtime.definitions import Definition
from actorfw.wire import messages as m
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.failures import pack_error, unpack_error

LIFE = b"node-id." + b"a life.."
HOST = "this host"
ACTOR = (LIFE, 99)


class Ref:
    """Stands for an ObjectRef on this side."""

    def __init__(self, number: int) -> None:
        self.number = number


def _export(ref: Ref) -> tuple[tuple[bytes, int, str], None]:
    return (LIFE, ref.number, ""), None


def _adopt(wire: tuple[bytes, int, str], extra: object) -> Ref:
    return Ref(wire[1])


class Node:
    """As much of a node as a worker process needs."""

    def __init__(self) -> None:
        self.codes = CodeTable(HOST)
        self.codec = Codec(self.codes)
        self.codec.register(Ref, _export, _adopt, kind="ObjectRef")
        self.seen: list[tuple[int, Any]] = []  # (worker index, message) of all but results
        self.ended: dict[int, str] = {}
        self.raw = ""
        self.lost = ""
        self.results: dict[int, asyncio.Future[list[Any]]] = {}
        self.news = asyncio.Event()
        self.shipped: set[tuple[int, bytes]] = set()
        self.numbers = iter(range(1, 1 << 30))
        self.sent: dict[int, tuple[Any, ...]] = {}
        self.sends_again = True
        handlers: list[Callable[[WorkerProcess, list[Any]], None]] = [self._message] * m.KINDS
        handlers[m.RESULT] = self._result
        handlers[m.BLOB] = self._blob
        handlers[m.HANDED_BACK] = self._handed_back
        self.answers: dict[int, Callable[[WorkerProcess, list[Any]], None]] = {}
        settings = {"life": LIFE, "node_id": LIFE[:8].hex(), "host_id": HOST, "address": "here:1"}
        self.zygote = Zygote(settings, handlers, ended=self._ended, output=self._output, lost=self._lost)

    # -- handlers

    def _message(self, worker: WorkerProcess, message: list[Any]) -> None:
        answer = self.answers.get(message[0])
        if answer is not None:
            answer(worker, message)
        self.seen.append((worker.index, message))
        self.news.set()

    def _result(self, worker: WorkerProcess, message: list[Any]) -> None:
        self.seen.append((worker.index, message[:3]))
        future = self.results[message[1]]
        if not future.done():
            future.set_result(message)
        self.news.set()

    def _blob(self, worker: WorkerProcess, message: list[Any]) -> None:
        self.shipped.add((worker.index, self.codes.add(message[2])))

    def _handed_back(self, worker: WorkerProcess, message: list[Any]) -> None:
        self._message(worker, message)
        if self.sends_again:
            for no in message[1]:
                worker.send(self.sent[no])

    def _ended(self, worker: WorkerProcess, sentence: str) -> None:
        self.ended[worker.index] = sentence
        self.news.set()

    def _output(self, worker: WorkerProcess | None, text: str) -> None:
        self.raw += text
        self.news.set()

    def _lost(self, sentence: str) -> None:
        self.lost = sentence
        self.news.set()

    # -- what tests say

    async def until(self, what: Callable[[], Any]) -> Any:
        async with asyncio.timeout(20):
            while not (found := what()):
                self.news.clear()
                await self.news.wait()
        return found

    def kinds(self, *wanted: int) -> list[Any]:
        return [message for _, message in self.seen if message[0] in wanted]

    def ship(self, worker: WorkerProcess, *hashes: bytes) -> None:
        for hashed in hashes:
            if (worker.index, hashed) not in self.shipped:
                self.shipped.add((worker.index, hashed))
                worker.send((m.BLOB, hashed, self.codes.get(hashed)))

    def task(
        self,
        worker: WorkerProcess,
        fn: Any,
        *args: Any,
        credit: int = 0,
        parts: int = 1,
        left: int | None = None,
        gpus: list[int] | None = None,
        deps: Any = None,
    ) -> Task:
        hashed, recipe = Definition(fn, fn, {"executor": "process"}).wire(self.codes)
        wire, _ = self.codec.pack_args(args, {})
        codes = getattr(wire, "codes", [])
        self.ship(worker, hashed, recipe.code, *codes)
        no = next(self.numbers)
        self.results[no] = asyncio.get_running_loop().create_future()
        self.sent[no] = (m.TASK, no, hashed, wire, deps, left, 1, credit, parts, (LIFE, no), gpus)
        worker.send(self.sent[no])
        return Task(self, worker, no)

    def create(self, worker: WorkerProcess, actor_class: type, *args: Any, **options: Any) -> None:
        """Make an actor of this class, number 99, in a worker."""
        definition = Definition(actor_class, actor_class, {"executor": "process", **options})
        assert definition.interface is not None
        hashed, recipe = definition.wire(self.codes)
        wire, _ = self.codec.pack_args(args, {})
        self.ship(worker, hashed, recipe.code)
        worker.send((m.CREATE, ACTOR, 3, hashed, wire, None, definition.interface.to_wire(), None, False))

    def call(
        self, worker: WorkerProcess, method: str, *args: Any, credit: int = 0, parts: int = 1, left: int | None = None
    ) -> Task:
        wire, _ = self.codec.pack_args(args, {})
        self.ship(worker, *getattr(wire, "codes", []))
        no = next(self.numbers)
        self.results[no] = asyncio.get_running_loop().create_future()
        worker.send((m.CALL, no, *ACTOR, 3, method, wire, None, left, credit, parts, (LIFE, no), 1))
        return Task(self, worker, no)

    def settle(self, worker: WorkerProcess, number: int, value: Any, *, ahead: bool = False) -> None:
        """Tell a worker the outcome of a ref: as asked for, or `ahead` of a task."""
        flag = (True,) if ahead else ()
        worker.send((m.SETTLED, LIFE, number, m.VALUE, self.codec.pack(value), *flag))

    def fail(self, worker: WorkerProcess, number: int, error: Exception, *, ahead: bool = False) -> None:
        flag = (True,) if ahead else ()
        worker.send((m.SETTLED, LIFE, number, m.ERROR, pack_error(self.codec, error, where="elsewhere"), *flag))

    def unpacked_error(self, out: Any) -> Exception:
        return unpack_error(self.codec, out)

    def packed_error(self, error: Exception) -> Any:
        return pack_error(self.codec, error, where="the node", infrastructure=True)

    async def run(self, worker: WorkerProcess, fn: Any, *args: Any, **options: Any) -> Any:
        return await self.task(worker, fn, *args, **options)


class Task:
    def __init__(self, node: Node, worker: WorkerProcess, no: int) -> None:
        self.node, self.worker, self.no = node, worker, no

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        future = self.node.results[self.no]
        await self.node.until(lambda: future.done() or self.worker.index in self.node.ended)
        if not future.done():
            raise AssertionError(f"no answer: {self.node.ended[self.worker.index]}\n{self.node.raw}")
        _, _, state, out, _ = future.result()
        if state == m.ERROR:
            raise unpack_error(self.node.codec, out)
        if state == m.PARTS:
            return [self.node.codec.unpack(part) for part in out]
        return self.node.codec.unpack(out)

    @property
    def done(self) -> bool:
        return self.node.results[self.no].done()
