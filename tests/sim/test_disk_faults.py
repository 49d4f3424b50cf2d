"""Disks that are full, read-only or lose what was written, under nodes whose memory is too small for their objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import actorfw
from actorfw import Config
from actorfw.runtime.node import Node
from actorfw.testing import SimCluster, run
from actorfw.testing.faults import MemoryFiles

MIB = 1 << 20


def data(number: int, size: int = MIB // 4) -> bytes:
    return number.to_bytes(8, "little") * (size // 8)


runs: list[int] = []


@actorfw.remote
async def make(number: int) -> bytes:
    runs.append(number)
    return data(number)


@actorfw.remote
async def first_of(value: bytes) -> int:
    return int.from_bytes(value[:8], "little")


@pytest.fixture(autouse=True)
def _clean() -> None:
    runs.clear()


class Disks:
    """The disks of a cluster, in the order of its nodes."""

    def __init__(self, size: int = 64 * MIB) -> None:
        self.made: list[MemoryFiles] = []
        self.size = size

    def __call__(self) -> MemoryFiles:
        self.made.append(MemoryFiles(self.size))
        return self.made[-1]

    def __getitem__(self, index: int) -> MemoryFiles:
        return self.made[index]


def cluster(nodes: int, disks: Disks, *, seed: int = 0, mib: int = 1, room_timeout: float = 5.0) -> SimCluster:
    config = Config(room_timeout=room_timeout)
    return SimCluster(nodes, seed, disk=disks, store_memory=mib * MIB, config=config)


def used(node: Node) -> int:
    return node.store.used


def test_more_than_memory_on_one_node() -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(1, disks) as sim:
            refs = [actorfw.put(data(number)) for number in range(20)]
            await asyncio.sleep(1)
            assert len(disks[0].files) >= 16
            for _ in range(2):
                for number, ref in enumerate(refs):
                    assert await ref == data(number)
            del refs, ref
            await asyncio.sleep(1)
            assert disks[0].files == {}
            assert used(sim.nodes[0].runtime) == 0
        assert disks[0].closed

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_what_other_nodes_make_and_pull(seed: int) -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(3, disks, seed=seed) as sim:
            there = [actorfw.NodeAffinity(node.id) for node in sim.nodes]
            refs = [make.options(scheduling=there[number % 3]).remote(number) for number in range(30)]
            firsts = await actorfw.gather(
                [first_of.options(scheduling=there[(at + 1) % 3]).remote(ref) for at, ref in enumerate(refs)]
            )
            assert firsts == list(range(30))
            for number, ref in enumerate(refs):
                assert await ref == data(number)
            assert sum(node.runtime.store.stats()["written"] for node in sim.nodes) > 0
            del refs, ref
            await asyncio.sleep(20)
            for at, node in enumerate(sim.nodes):
                assert (used(node.runtime), disks[at].files) == (0, {})

    run(main())


def vanish(disk: MemoryFiles, name: str) -> None:
    del disk.files[name]


def cut(disk: MemoryFiles, name: str) -> None:
    del disk.files[name][100:]


def change(disk: MemoryFiles, name: str) -> None:
    disk.files[name][1000] ^= 1


@pytest.mark.parametrize("harm", [vanish, cut, change])
def test_what_the_disk_lost_is_made_again_or_said_to_be_lost(harm: Callable[[MemoryFiles, str], None]) -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(1, disks):
            made = [make.remote(number) for number in range(8)]
            await asyncio.gather(*made)
            put = [actorfw.put(data(100 + number)) for number in range(8)]
            await asyncio.sleep(1)
            assert len(runs) == 8
            for name in list(disks[0].files):
                harm(disks[0], name)
            for number, ref in enumerate(made):
                assert await ref == data(number)
            assert len(runs) > 8
            lost = await asyncio.gather(*put, return_exceptions=True)
            assert any(isinstance(one, actorfw.ObjectLostError) for one in lost)
            for number, one in enumerate(lost):
                if isinstance(one, Exception):
                    assert "memory:" in str(one)
                else:
                    assert one == data(100 + number)

    run(main())


def test_a_copy_that_is_lost_comes_from_its_owner_again() -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(2, disks) as sim:
            there = actorfw.NodeAffinity(sim.nodes[1].id)
            refs = [actorfw.put(data(number)) for number in range(8)]
            reader = first_of.options(scheduling=there)
            assert await asyncio.gather(*(reader.remote(ref) for ref in refs)) == list(range(8))
            for name in list(disks[1].files):
                vanish(disks[1], name)
            assert await asyncio.gather(*(reader.remote(ref) for ref in refs)) == list(range(8))

    run(main())


def test_a_full_disk_stops_only_who_wants_more() -> None:
    async def main() -> None:
        disks = Disks(size=MIB // 2)
        async with cluster(1, disks) as sim:
            refs = [actorfw.put(data(number)) for number in range(6)]
            with pytest.raises(actorfw.ObjectStoreFullError, match="nothing more can go there"):
                actorfw.put(data(6))
            with pytest.raises(actorfw.ObjectStoreFullError):
                await make.remote(7)
            assert await first_of.remote(b"\1" + bytes(7)) == 1
            for number, ref in enumerate(refs):
                assert await ref == data(number)
            del refs, ref
            assert await actorfw.put(data(8)) == data(8)
            assert sim.nodes[0].runtime.open

    run(main())


def test_a_disk_that_can_be_written_to_again_is_used_again() -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(1, disks):
            disks[0].read_only = True
            refs = [actorfw.put(data(number)) for number in range(4)]
            with pytest.raises(actorfw.ObjectStoreFullError, match="Read-only file system"):
                actorfw.put(data(4))
            disks[0].read_only = False
            await asyncio.sleep(6)
            refs += [actorfw.put(data(number)) for number in range(4, 10)]
            for number, ref in enumerate(refs):
                assert await ref == data(number)

    run(main())


@actorfw.remote
class Reader:
    """Keeps views of values of its own node, so that they can't be written to disk."""

    async def hold(self, count: int) -> int:
        refs = [actorfw.put(memoryview(data(number))) for number in range(count)]
        self.views = [await ref for ref in refs]
        return len(self.views)

    async def fetch(self, refs: list[actorfw.ObjectRef[bytes]]) -> int:
        return len(await refs[0])

    async def drop(self) -> None:
        self.views.clear()


def test_a_node_without_room_pulls_when_there_is_some_and_says_so_when_there_is_none() -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(2, disks, room_timeout=2.0) as sim:
            loop = asyncio.get_running_loop()
            there = actorfw.NodeAffinity(sim.nodes[1].id)
            reader = Reader.options(scheduling=there, max_concurrency=2).remote()
            large = [actorfw.put(data(number, MIB // 2)) for number in range(2)]
            disks[1].read_only = True
            assert await reader.hold(4) == 4
            held = used(sim.nodes[1].runtime)
            began = loop.time()
            with pytest.raises(actorfw.TaskError, match=r"ObjectStoreFullError.*Read-only file system"):
                await reader.fetch(large[:1])
            assert 2.0 <= loop.time() - began < 4.0
            waiting = asyncio.ensure_future(reader.fetch(large[1:]))
            await asyncio.sleep(1.0)
            assert not waiting.done()
            await reader.drop()
            assert await waiting == MIB // 2
            assert held >= MIB

    run(main())


class Slow(actorfw.Actor):
    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def take(self, value: bytes) -> int:
        await self.go_on.wait()
        return int.from_bytes(value[:8], "little")

    @actorfw.method(interleave=True)
    async def start(self) -> None:
        self.go_on.set()


def test_large_arguments_of_calls_that_wait_are_in_the_store_and_on_disk() -> None:
    async def main() -> None:
        disks = Disks()
        async with cluster(2, disks, mib=2) as sim:
            there = sim.nodes[1].runtime
            slow = Slow.options(scheduling=actorfw.NodeAffinity(sim.nodes[1].id)).remote()
            calls = [slow.take.remote(data(number)) for number in range(40)]  # five times the store
            await asyncio.sleep(30)
            assert used(there) <= 2 * MIB
            assert used(sim.nodes[0].runtime) <= 2 * MIB
            assert not any(call.done() for call in calls)
            await slow.start.remote()
            assert await actorfw.gather(calls) == list(range(40))

    run(main())
