"""How full memory is, read from files as Linux writes them."""

from __future__ import annotations

import os
from pathlib import Path

from actorfw.io.memory import MemoryMeter

MIB = 1 << 20


def machine(root: Path, *, total: int, available: int, cgroup: str = "", mounts: str = "") -> MemoryMeter:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: {total * 1024} kB\nMemAvailable: {available * 1024} kB\n")
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    (root / "proc" / "self" / "mountinfo").write_text(mounts)
    return MemoryMeter(str(root))


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_the_machine_alone(tmp_path: Path) -> None:
    meter = machine(tmp_path, total=1000, available=250)
    reading = meter.read()
    assert (reading.used, reading.limit, reading.of) == (750 * MIB, 1000 * MIB, "this machine")
    assert reading.share == 0.75
    assert meter.limit() == 1000 * MIB


def test_a_control_group_of_version_2(tmp_path: Path) -> None:
    at = tmp_path / "sys" / "fs" / "cgroup"
    group(at, {"memory.current": "1", "memory.max": "max", "memory.stat": "inactive_file 0"})
    inner = {"memory.current": str(190 * MIB), "memory.max": str(200 * MIB), "memory.stat": f"inactive_file {10 * MIB}"}
    group(at / "a" / "b", inner)
    meter = machine(
        tmp_path,
        total=1000,
        available=900,
        cgroup="0::/a/b\n",
        mounts="30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
    )
    reading = meter.read()
    assert (reading.used, reading.limit) == (180 * MIB, 200 * MIB)
    assert reading.of == f"the control group {at}/a/b"
    assert meter.limit() == 200 * MIB


def test_in_a_container_that_sees_only_its_own_part(tmp_path: Path) -> None:
    at = tmp_path / "sys" / "fs" / "cgroup"
    group(at, {"memory.current": str(50 * MIB), "memory.max": str(60 * MIB), "memory.stat": "inactive_file 0"})
    meter = machine(
        tmp_path,
        total=1000,
        available=900,
        cgroup="0::/docker/0123\n",
        mounts="30 23 0:26 /docker/0123 /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
    )
    assert meter.read().limit == 60 * MIB


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    at = tmp_path / "sys" / "fs" / "cgroup" / "memory"
    group(
        at / "job",
        {
            "memory.usage_in_bytes": str(100 * MIB),
            "memory.limit_in_bytes": str(128 * MIB),
            "memory.stat": f"total_inactive_file {4 * MIB}",
        },
    )
    group(
        at,
        {
            "memory.usage_in_bytes": str(100 * MIB),
            "memory.limit_in_bytes": str((1 << 63) - 4096),
            "memory.stat": "total_inactive_file 0",
        },
    )
    meter = machine(
        tmp_path,
        total=1000,
        available=900,
        cgroup="5:cpu,cpuacct:/\n4:memory:/job\n0::/\n",
        mounts="30 23 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    )
    assert (meter.read().used, meter.limit()) == (96 * MIB, 128 * MIB)


def test_a_group_that_is_gone_counts_no_more(tmp_path: Path) -> None:
    at = tmp_path / "sys" / "fs" / "cgroup"
    group(at / "a", {"memory.current": "1", "memory.max": "2", "memory.stat": "inactive_file 0"})
    meter = machine(
        tmp_path, total=1000, available=900, cgroup="0::/a\n", mounts="1 2 0:1 / /sys/fs/cgroup rw - cgroup2 c rw\n"
    )
    assert meter.limit() == 2
    (at / "a" / "memory.max").unlink()
    assert meter.read().of == "this machine"


def test_this_machine_really() -> None:
    meter = MemoryMeter()
    reading = meter.read()
    assert 0 < reading.used < reading.limit
    assert meter.limit() >= reading.limit // 1000
    block = bytearray(os.urandom(1)) * (32 * MIB)
    assert meter.own(os.getpid()) > 32 * MIB
    assert len(block) == 32 * MIB
    assert meter.own(1 << 30) == 0
    top = meter.top(3)
    assert top == sorted(top, key=lambda one: -one.own)
    assert 1 <= len(top) <= 3
