"""Every example runs on small input, in development mode, warnings as errors: right result, nothing on stderr."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECONDS = r"\d+\.\d+ s"

# Example and arguments -> what it prints: regular expressions, one for each line.
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "monte_carlo_pi.py": (
        ["--darts", "400000", "--batches", "4", "--seed", "7"],
        [r"pi is about 3\.14\d\d after 400000 darts in 4 tasks"],
    ),
    "fibonacci.py": (
        ["--n", "15", "--count", "3", "--depth", "3"],
        [
            r"fibonacci\(15\) = 610: 3 times here, as often by tasks, once by a tree of tasks",
            rf"here {SECONDS}, by tasks {SECONDS}",
        ],
    ),
    "matrix_graph.py": (["--size", "60"], [r"60 x 60: trace \d{4,}, the same as computed here"]),
    "tree_aggregation.py": (
        ["--values", "9", "--work", "0.001"],
        [rf"chain: sum 45, depth 8, {SECONDS}", rf"tree: sum 45, depth 4, {SECONDS}"],
    ),
    "counter_actor.py": (["--tasks", "4", "--increments", "5"], [r"4 tasks added 5 each: the counter stands at 20"]),
    "message_store.py": (
        ["--producers", "3", "--messages", "7"],
        [r"took 21 messages of 3 producers, each producer's in order"],
    ),
    "gsod.py": (
        ["--stations", "3", "--days", "40"],
        [
            r"2001\.tar\.gz: 3 stations, 108 days, mean .+ C, hottest .* STATION \"2\", NO on 2001-\d\d-\d\d, .*",
            r"2021\.tar\.gz: 3 stations, 108 days, mean .+ C, hottest .* STATION \"2\", NO on 2021-\d\d-\d\d, .*",
            r"108 days in both years at the same station: \+1\.50 C",
        ],
    ),
    "shuffle_sort.py": (
        ["--store-mib", "8", "--parts", "6"],
        [r"48 MiB, 6 parts, stores of 2 x 8 MiB: sorted"],
    ),
    "word_count.py": (
        ["--parts", "2", "--top", "3"],
        [r"33 words, 23 different, in 2 texts", r" +4 be", r" +4 can", r" +2 by"],
    ),
    "scraper.py": (["--pages", "9"], [r"9 pages with 18 links, 18 requests of which 9 failed"]),
    "web_service.py": (
        ["--check"],
        [
            r"4 primes below 10",
            r"25 primes below 100",
            r"168 primes below 1000",
            r"1229 primes below 10000",
            r"9592 primes below 100000",
            r"78498 primes below 1000000",
            r"visits: \{'primes': 6\}",
            r"ready: True",
        ],
    ),
    "handles_between_services.py": (
        ["--orders", "7"],
        [
            r"orders: 5 accepted, 2 refused",
            r"orders: heard bolt \(4 left\), bolt \(1 left\)",
            r"stock: \{'bolt': 1, 'nut': 5\}",
        ],
    ),
}


def run_example(name: str, *arguments: str) -> list[str]:
    """What an example prints, line by line. The flags go by the environment too, to reach the processes it starts."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *arguments],
        env={**os.environ, "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    # What asyncio's debug mode says about slow steps tells more about the machine's load than about the example.
    said = re.sub(r"^Executing <.* took \d+\.\d+ seconds\n", "", done.stderr, flags=re.MULTILINE)
    assert (done.returncode, said) == (0, ""), f"{done.stdout}\n{said}"
    return done.stdout.splitlines()


def test_every_example_is_run_here() -> None:
    assert sorted(RUNS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.real
@pytest.mark.parametrize("name", RUNS)
def test_an_example_prints_its_result(name: str) -> None:
    arguments, expected = RUNS[name]
    lines = run_example(name, *arguments)
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


@pytest.mark.real
def test_gsod_reads_archives_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import gsod  # type: ignore[import-not-found]

    first, second = tmp_path / "1998.tar.gz", tmp_path / "1999.tar.gz"
    gsod.write_sample(first, 1998, stations=2, days=20, warmer=0.0)
    gsod.write_sample(second, 1999, stations=3, days=10, warmer=-1.0)
    *_, last = run_example("gsod.py", str(first), str(second))
    assert last == "18 days in both years at the same station: -1.00 C"
