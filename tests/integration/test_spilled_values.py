"""More values than the object store has memory for: on disk meanwhile, right when they are read, clear when lost."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

import actorfw
from actorfw import Config
from actorfw.runtime import current
from actorfw.runtime.node import Node
from actorfw.runtime.store.spilling import Spiller

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no shared memory on this platform")

MIB = 1 << 20
Bytes = npt.NDArray[np.uint8]


def array(number: int, size: int = 4 * MIB) -> Bytes:
    made = np.full(size, number % 251, dtype=np.uint8)
    made[:8] = np.frombuffer(number.to_bytes(8, "little"), dtype=np.uint8)
    return made


def is_array(value: Any, number: int, size: int = 4 * MIB) -> bool:
    return bool((value == array(number, size)).all())


@actorfw.remote
def make(number: int, size: int = 4 * MIB) -> Bytes:
    return array(number, size)


@actorfw.remote
def check(first: int, *arrays: Bytes) -> bool:
    return all(is_array(one, first + at, len(one)) for at, one in enumerate(arrays))


def store(mib: int = 64, *, cpus: int = 0, **config: Any) -> actorfw.NodeContext:
    return actorfw.init(object_store_memory=mib * MIB, num_cpus=cpus, config=Config(**config))


def this_node() -> Node:
    return cast("Node", current.entered.get())


def spiller() -> Spiller:
    found = this_node().store.spiller
    assert found is not None
    return found


async def all_written() -> None:
    """Until nothing is on its way to disk."""
    while spiller().policy.going:
        await asyncio.sleep(0.01)


def paths_on_disk() -> list[str]:
    here = spiller()
    return [file.name for number, file in here._on_disk.items() if here.is_spilled(number)]


async def freed() -> None:
    deadline = time.monotonic() + 5
    while (this_node().store.used or spiller()._on_disk) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert this_node().store.used == 0
    assert not spiller()._on_disk
    here = this_node().store.arena
    assert here is not None
    here.validate()
    spiller().policy.validate()


async def test_three_times_the_memory_read_back_right_and_nothing_left(tmp_path: Path) -> None:
    async with store(spill_folder=str(tmp_path)):
        refs = [actorfw.put(array(number)) for number in range(50)]  # 200 MiB
        assert this_node().store.used <= 64 * MIB
        assert len(paths_on_disk()) >= 34
        for _ in range(2):
            for number, ref in enumerate(refs):
                assert is_array(await ref, number)
        assert spiller().written <= 200 * MIB  # no more than once each
        del refs, ref
        await freed()
        while os.listdir(spiller().files.where) != ["lock"]:  # in a thread, some time
            await asyncio.sleep(0.01)
    assert os.listdir(tmp_path) == []


async def test_results_and_arguments_of_tasks() -> None:
    async with store(cpus=2):
        refs = [make.remote(number) for number in range(40)]
        assert all(await asyncio.gather(*(check.remote(at, *refs[at : at + 5]) for at in range(0, 40, 5))))
        for number, ref in enumerate(refs):
            assert is_array(await ref, number)
        assert spiller().written > 0
        del refs, ref
        await freed()


async def test_many_that_wait_for_room_all_get_it() -> None:
    async with store():
        refs = await asyncio.gather(*(actorfw.put_async(array(number)) for number in range(40)))
        for number, ref in enumerate(refs):
            assert is_array(await ref, number)


async def test_an_await_reads_the_file_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async with store():
        refs = [actorfw.put(array(number)) for number in range(30)]
        await all_written()
        threads: list[int] = []
        read = spiller().files.read

        def noted(*args: Any) -> None:
            threads.append(threading.get_ident())
            read(*args)

        monkeypatch.setattr(spiller().files, "read", noted)
        first, *others = refs
        assert is_array(await first, 0)
        values = await asyncio.gather(*others[:8])
        assert all(is_array(value, number + 1) for number, value in enumerate(values))
        assert threads
        assert threading.get_ident() not in threads


def test_a_script_and_its_threads() -> None:
    with actorfw.init(object_store_memory=32 * MIB, num_cpus=0, thread=True):
        refs: dict[int, actorfw.ObjectRef[Bytes]] = {}

        def work(begin: int) -> None:
            for number in range(begin, begin + 10):
                refs[number] = actorfw.put(array(number))

        threads = [threading.Thread(target=work, args=(begin,)) for begin in (0, 10, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(30):
            assert is_array(actorfw.get(refs[number]), number)


async def test_what_is_viewed_stays_where_it_is() -> None:
    async with store(32):
        ref = actorfw.put(array(1))
        view = await ref
        others = [actorfw.put(array(number)) for number in range(2, 22)]
        await all_written()
        assert len(paths_on_disk()) >= 12
        assert is_array(view, 1)
        assert not any(spiller().is_spilled(part.number) for part in ref._out.buffers)
        assert len(others) == 20


async def test_memory_full_of_views_is_not_the_end() -> None:
    async with store(32, cpus=1):
        refs = [actorfw.put(array(number)) for number in range(8)]
        views = [await ref for ref in refs]
        beside = actorfw.put(array(8))  # on the loop, which does not wait
        waited = await actorfw.put_async(array(9))
        made = await make.remote(10)  # by a worker
        assert is_array(await beside, 8)
        assert is_array(await waited, 9)
        assert is_array(made, 10)
        assert await check.remote(8, beside, waited)
        assert spiller().stats()["outside"] == 3 * 4 * MIB
        away = actorfw.put(array(11))
        del views
        assert is_array(await away, 11)
        del refs, beside, waited, made, away
        await freed()
        assert spiller().stats()["outside"] == 0


async def test_an_object_larger_than_memory() -> None:
    async with store(8, cpus=1):
        large = array(1, 40 * MIB)
        ref = actorfw.put(large)
        assert is_array(await ref, 1, 40 * MIB)
        assert await check.remote(1, ref)
        assert is_array(await make.remote(2, 30 * MIB), 2, 30 * MIB)
        assert is_array(await (await actorfw.put_async(large)), 1, 40 * MIB)


async def test_an_object_larger_than_memory_and_disk() -> None:
    async with store(8, cpus=1, spill_limit=10 * MIB):
        small = actorfw.put(array(1, MIB))
        with pytest.raises(actorfw.ObjectStoreFullError, match=r"no room for 41,943,040 bytes"):
            actorfw.put(array(1, 40 * MIB))
        with pytest.raises(actorfw.ObjectStoreFullError, match=r"Config\.spill_limit is 10,485,760 bytes"):
            await actorfw.put_async(array(1, 40 * MIB))
        with pytest.raises(actorfw.ObjectStoreFullError, match=r"no room for 41,943,040 bytes"):
            await make.options(max_retries=0).remote(1, 40 * MIB)
        assert is_array(await small, 1, MIB)
        assert is_array(await make.remote(2, MIB), 2, MIB)


async def test_memory_and_disk_full_names_the_largest_and_who_has_them() -> None:
    async with store(16, spill_limit=MIB, room_timeout=0.5):
        kept = [actorfw.put(array(number)) for number in range(4)]
        with pytest.raises(actorfw.ObjectStoreFullError) as full:
            actorfw.put(array(4))
        text = str(full.value)
        for ref in kept:
            assert ref.id in text
        for part in (
            "16,777,216 of its 16,777,216 bytes of memory are in use",
            "4.0 MiB: object",
            "raise object_store",
        ):
            assert part in text, text
        assert full.value.ran is False
        began = time.monotonic()
        with pytest.raises(actorfw.ObjectStoreFullError):
            await actorfw.put_async(array(5))
        assert 0.5 <= time.monotonic() - began < 5
        for number, ref in enumerate(kept):
            assert is_array(await ref, number)
        waiting = asyncio.ensure_future(actorfw.put_async(array(6)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        del kept, ref
        assert is_array(await (await waiting), 6)


def cut(path: str) -> None:
    os.truncate(path, 10_000)


def change(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")


@pytest.mark.parametrize(
    ("harm", "said"), [(os.unlink, "can't be opened"), (cut, "was cut short"), (change, "was changed")]
)
async def test_a_file_that_is_lost(harm: Any, said: str) -> None:
    async with store(16, cpus=1):
        refs = [actorfw.put(array(number)) for number in range(10)]
        await all_written()
        harmed = paths_on_disk()[0]
        harm(harmed)
        lost: list[str] = []
        for number, ref in enumerate(refs):
            try:
                assert is_array(await ref, number)
            except actorfw.ObjectLostError as error:
                lost.append(str(error))
                with pytest.raises(actorfw.ObjectLostError, match=said):
                    await ref  # again
                with pytest.raises(actorfw.ObjectLostError, match=said):
                    await check.remote(number, ref)
                with pytest.raises(actorfw.ObjectLostError, match=said):
                    await asyncio.gather(ref)
        assert len(lost) == 1
        assert harmed in lost[0]
        assert said in lost[0]


async def test_a_file_that_is_lost_while_memory_has_the_value_too() -> None:
    async with store(16):
        refs = [actorfw.put(array(number)) for number in range(10)]
        await all_written()
        assert is_array(await refs[0], 0)  # it was on disk, and is in memory now as well
        for path in [file.name for file in spiller()._on_disk.values()]:
            if not spiller().is_spilled(int(os.path.basename(path).partition(".")[0])):
                os.unlink(path)
        others = [actorfw.put(array(number)) for number in range(10, 20)]  # for which it goes again
        await all_written()
        assert is_array(await refs[0], 0)
        assert all([is_array(await ref, number) for number, ref in enumerate(others, 10)])


async def test_the_folder_is_removed_under_it(tmp_path: Path) -> None:
    async with store(16, spill_folder=str(tmp_path)):
        refs = [actorfw.put(array(number)) for number in range(6)]
        await all_written()
        lost = len(paths_on_disk())
        shutil.rmtree(spiller().files.where)
        others = [actorfw.put(array(number)) for number in range(10, 20)]
        assert all([is_array(await ref, number) for number, ref in enumerate(others, 10)])
        outcomes = await asyncio.gather(*refs, return_exceptions=True)
        assert len([found for found in outcomes if isinstance(found, actorfw.ObjectLostError)]) == lost > 0
    assert os.listdir(tmp_path) == []


async def test_the_result_of_a_task_is_made_again() -> None:
    async with store(16, cpus=1):
        refs = [make.remote(number) for number in range(10)]
        await actorfw.wait(refs, num_returns=10)
        await all_written()
        harmed = paths_on_disk()
        assert len(harmed) >= 6
        for path in harmed:
            cut(path)
        for number, ref in enumerate(refs):
            assert is_array(await ref, number)


@pytest.mark.parametrize("how", ["not a folder", "read-only"])
async def test_a_folder_that_can_not_be_written_to(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "spilled"
    if how == "read-only":
        if os.geteuid() == 0:
            folder = Path("/proc")  # which root can't write to, either
        else:
            folder.mkdir(mode=0o500)
    else:
        folder.write_text("")
    with caplog.at_level(logging.WARNING, "actorfw.store"):
        async with store(16, spill_folder=str(folder), room_timeout=0.3):
            refs = [actorfw.put(array(number)) for number in range(4)]
            with pytest.raises(actorfw.ObjectStoreFullError, match=str(folder)):
                actorfw.put(array(4))
            for number, ref in enumerate(refs):
                assert is_array(await ref, number)
            del refs, ref
            assert is_array(await actorfw.put(array(5)), 5)
    assert sum("they stay in memory" in record.getMessage() for record in caplog.records) == 1


async def test_a_url() -> None:
    fsspec = pytest.importorskip("fsspec", reason="an extra: actorfw[fsspec]")
    async with store(16, spill_folder="memory://spilled/here"):
        refs = [actorfw.put(array(number)) for number in range(10)]
        assert len(fsspec.filesystem("memory").find("/spilled/here")) >= 6
        for number, ref in enumerate(refs):
            assert is_array(await ref, number)
        views = [await ref for ref in refs]  # all in memory: there is no mapping such a file
        assert all(is_array(view, number) for number, view in enumerate(views))
        del views
    assert fsspec.filesystem("memory").find("/spilled/here") == []


async def test_a_url_that_nobody_knows_is_refused_at_once() -> None:
    pytest.importorskip("fsspec", reason="an extra: actorfw[fsspec]")
    with pytest.raises(actorfw.UsageError, match="spill_folder='nowhere://x' can't be used"):
        await store(16, spill_folder="nowhere://x")


async def test_what_a_dead_node_left_is_removed_at_the_start(tmp_path: Path) -> None:
    left = tmp_path / "actorfw-spill-99999999-1-abcdef01"
    left.mkdir()
    (left / "1.object").write_bytes(b"x")
    async with store(16, spill_folder=str(tmp_path)):
        deadline = time.monotonic() + 5
        while left.exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not left.exists()


async def test_closing_in_the_middle_of_it(tmp_path: Path) -> None:
    async with store(16, cpus=1, spill_folder=str(tmp_path)):
        refs = [make.remote(number) for number in range(20)]
        waiting = [asyncio.ensure_future(actorfw.put_async(array(number))) for number in range(4)]
        await refs[0]
        await asyncio.sleep(0)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, (actorfw.ObjectRef, actorfw.NodeClosedError)) for one in ended)
    assert os.listdir(tmp_path) == []


async def test_what_is_on_disk_is_lost_when_its_node_closes() -> None:
    async with store(16):
        refs = [actorfw.put(array(number)) for number in range(10)]
        await all_written()
        here = spiller()
        away = [ref for ref in refs if any(here.is_spilled(part.number) for part in ref._out.buffers)]
    assert away
    async with asyncio.timeout(10):
        with pytest.raises(actorfw.ObjectLostError, match="when its node was closed"):
            await away[0]
