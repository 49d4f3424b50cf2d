"""The virtual loop: time jumps, and one node of many can be frozen, slowed, skewed or crashed."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from actorfw.testing.loop import StuckError, VirtualLoop, run
from actorfw.testing.network import MemoryNetwork, SimEnv

Log = list[tuple[str, float]]


def virtual() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


async def ticking(name: str, log: Log, env: SimEnv) -> None:
    try:
        while True:
            await asyncio.sleep(1)  # user code: it knows of no Env
            log.append((name, round(env.time(), 6)))
    finally:
        log.append((f"{name} finally", -1.0))


def start(log: Log, *names: str) -> dict[str, SimEnv]:
    network = MemoryNetwork(virtual())
    envs = {name: SimEnv(virtual(), network, name) for name in names}
    for name, env in envs.items():
        env.tick = env.create_task(ticking(name, log, env), name=name)  # type: ignore[attr-defined]
    return envs


def ticks(log: Log, name: str) -> list[float]:
    return [when for who, when in log if who == name]


def test_hours_pass_in_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(5 * 3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.get_running_loop().create_future()
        return virtual().time()

    before = time.perf_counter()
    assert run(main) == 6 * 3600
    assert time.perf_counter() - before < 5


def test_what_takes_longer_than_its_limit_says_who_waits_where() -> None:
    async def ticks_for_ever() -> None:
        while True:
            await asyncio.sleep(1)

    async def main() -> None:
        task = asyncio.create_task(ticks_for_ever(), name="the clock")
        await task

    with pytest.raises(StuckError, match="within 100 virtual seconds") as caught:
        run(main, limit=100)
    assert "ticks_for_ever" in str(caught.value)


def test_when_nothing_can_happen_it_says_who_waits_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(waits_for_ever(), name="the patient one")
        await asyncio.sleep(3)
        await task

    with pytest.raises(StuckError, match=r"after 3\.0") as caught:
        run(main)
    assert "the patient one" in str(caught.value)
    assert "waits_for_ever" in str(caught.value)


def test_a_frozen_node_catches_up_when_thawed() -> None:
    log: Log = []

    async def main() -> None:
        start(log, "a", "b")
        await asyncio.sleep(2.5)
        virtual().freeze("b")
        await asyncio.sleep(3)
        virtual().thaw("b")
        await asyncio.sleep(1.2)

    run(main)
    assert ticks(log, "a") == [1, 2, 3, 4, 5, 6]
    assert ticks(log, "b") == [1, 2, 5.5, 6.5]


def test_a_crashed_node_runs_nothing_not_even_finally() -> None:
    log: Log = []

    async def main() -> None:
        envs = start(log, "a", "b")
        await asyncio.sleep(2.5)
        virtual().crash("b")
        del envs["b"].tick  # type: ignore[attr-defined]
        gc.collect()
        await asyncio.sleep(2)
        assert virtual().is_crashed("b")
        assert ("b finally", -1.0) not in log

    run(main)
    assert ticks(log, "a") == [1, 2, 3, 4]
    assert ticks(log, "b") == [1, 2]


def test_a_skewed_clock() -> None:
    log: Log = []

    async def main() -> list[float]:
        envs = start(log, "a", "b")
        await asyncio.sleep(2.5)
        virtual().skew("b", 2.0)  # its seconds are two of ours
        await asyncio.sleep(4)
        times = [envs["b"].time(), virtual().time()]
        virtual().skew("b", 1.0)
        await asyncio.sleep(1)
        return [*times, envs["b"].time()]

    assert run(main) == [4.5, 6.5, 5.5]
    # The sleep that had begun ends as planned; those after it take twice as long.
    assert ticks(log, "b")[:3] == [1, 2, 2.75]


def test_a_slow_node_takes_time_for_each_step_and_keeps_their_order() -> None:
    async def main() -> list[tuple[int, float]]:
        done: list[tuple[int, float]] = []
        env = SimEnv(virtual(), MemoryNetwork(virtual()), "b")
        virtual().slow("b", 0.1)
        for i in range(4):
            env.call_soon(lambda i=i: done.append((i, round(virtual().time(), 6))))
        await asyncio.sleep(0.25)
        virtual().slow("b", 0)
        await asyncio.sleep(1)
        return done

    assert run(main) == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_livelock_is_noticed() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="without a pause"):
        run(main)


def test_threads_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="threads"):
            await asyncio.to_thread(time.sleep, 0)

    run(main)
