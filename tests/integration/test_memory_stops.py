"""Real worker processes and a machine that says its memory is full."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import cast

import pytest

import actorfw
from actorfw import Config
from actorfw.io.memory import MemoryMeter, MemoryReading
from actorfw.runtime import current
from actorfw.runtime.node import Node

MIB = 1 << 20


class Machine(MemoryMeter):
    """This one, but for how full it is."""

    full = False

    def read(self) -> MemoryReading:
        return MemoryReading(999 * MIB if self.full else MIB, 1000 * MIB, "this machine")


@actorfw.remote(max_retries=1)
def eats(folder: str, seconds: float) -> int:
    kept = os.urandom(MIB) * 64
    runs = Path(folder, "runs")
    with runs.open("a") as file:
        file.write("x")
    deadline = time.monotonic() + (seconds if runs.stat().st_size == 1 else 0)
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return len(kept)


def machine_of_this_node() -> tuple[Node, Machine]:
    node = cast("Node", current.entered.get())
    machine = Machine()
    node.env.memory = machine
    return node, machine


async def begun(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not (folder / "runs").exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


async def stopped(node: Node, machine: Machine) -> None:
    machine.full = True
    deadline = time.monotonic() + 30
    while not node.pressure.stopped and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    machine.full = False


async def test_its_worker_is_killed_and_the_task_runs_again(tmp_path: Path) -> None:
    async with actorfw.init(num_cpus=1, config=Config(memory_interval=0.05)):
        node, machine = machine_of_this_node()
        ref = eats.remote(str(tmp_path), 60.0)
        await begun(tmp_path)
        await stopped(node, machine)
        assert await ref == 64 * MIB
        assert (tmp_path / "runs").read_text() == "xx"
        assert node.pressure.stopped == 1


async def test_the_error_names_those_who_have_it(tmp_path: Path) -> None:
    async with actorfw.init(num_cpus=1, config=Config(memory_interval=0.05)):
        node, machine = machine_of_this_node()
        ref = eats.options(max_retries=0).remote(str(tmp_path), 60.0)
        await begun(tmp_path)
        await stopped(node, machine)
        with pytest.raises(actorfw.WorkerDiedError) as died:
            await ref
        text = str(died.value)
        assert died.value.out_of_memory
        assert "999.0 MiB of the 1000.0 MiB of memory of this machine were in use" in text
        assert "Most memory had: " in text
        assert "1 of 1 attempts were stopped for want of memory" in text
