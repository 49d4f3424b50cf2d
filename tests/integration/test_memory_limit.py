"""A node in a control group whose memory a task uses up: the task is stopped before the kernel stops anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

LIMIT = 400 << 20

SCRIPT = """
    import asyncio
    import sys
    import time
    from pathlib import Path

    import actorfw

    MIB = 1 << 20

    @actorfw.remote(max_retries=3)
    def hungry(runs):
        with open(runs, "a") as file:
            file.write("x")
        if Path(runs).stat().st_size > 1:
            return "fed"
        kept = []
        while True:
            kept.append(bytearray(b"x") * (8 * MIB))
            time.sleep(0.02)

    @actorfw.remote(max_retries=3)
    def modest(runs, until):
        with open(runs, "a") as file:
            file.write("x")
        kept = bytearray(b"x") * (16 * MIB)
        while not Path(until).exists():
            time.sleep(0.02)
        return len(kept) // MIB

    async def main(folder):
        async with actorfw.init(num_cpus=2, object_store_memory=64 * MIB) as node:
            first = modest.remote(f"{folder}/modest", f"{folder}/end")
            while not Path(folder, "modest").exists():
                await asyncio.sleep(0.01)
            print(await asyncio.wait_for(hungry.remote(f"{folder}/hungry"), 60))
            Path(folder, "end").touch()
            print(await first, node.runtime.pressure.stopped)
            doomed = hungry.options(max_retries=0).remote(f"{folder}/again")
            try:
                await asyncio.wait_for(doomed, 60)
            except actorfw.WorkerDiedError as error:
                print(error.out_of_memory, "control group" in str(error), error)

    asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1, inside the one that this process is in."""
    try:
        rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        inside = next(row[2] for row in rows if "memory" in row[1].split(","))
        found = Path("/sys/fs/cgroup/memory", inside.lstrip("/"), f"actorfw-test-{os.getpid()}")
        found.mkdir()
    except (OSError, StopIteration) as error:
        pytest.skip(f"no control group with a memory limit can be made here: {error!r}")
    try:
        (found / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield found
    finally:
        found.rmdir()


def test_the_task_that_takes_too_much_is_stopped_and_nobody_else(group: Path, tmp_path: Path) -> None:
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    ran = subprocess.run(
        ["/bin/sh", "-c", enter, "sh", sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    fed, modest, error = ran.stdout.splitlines()[:3]
    assert fed == "fed"
    assert modest == "16 1"
    assert error.startswith("True True"), error
    assert ((tmp_path / "hungry").read_text(), (tmp_path / "modest").read_text()) == ("xx", "x")
    told = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    assert told.get("oom_kill", "0") == "0", "the kernel was quicker"
