"""`nox -s fuzz`: at least a million inputs, over all targets, and what they found.

    python -m tests.fuzz.run [TARGET ...] [--share PERCENT] [--seed N] [--engine atheris|own]

All targets get inputs that are made of good ones by structure. Where atheris is installed, those that are a function of
bytes get a tenth as many on top that are guided by the branches that they reach, in a process that libFuzzer ends when
one takes longer than ten seconds or memory grows beyond two GiB. Good inputs are made by the program itself each time;
nothing is kept in the repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final

__all__ = ["INPUTS", "main", "target"]

INPUTS: Final = {
    "accepting": 250_000,
    "dialling": 150_000,
    "proving": 120_000,
    "welcoming": 120_000,
    "frames": 200_000,
    "values": 150_000,
    "mates": 40_000,
    "links": 40_000,
}
"""How many each target gets: 1,070,000 together."""

GUIDED: Final = 10
"""One in so many on top under atheris: each costs as much more."""

GROWTH_BYTES: Final = 300 << 20
SLOW_SECONDS: Final = 5.0
AT_ONCE: Final = 4  # findings of one target after which it is enough


def target(name: str) -> Any:
    """A fresh one."""
    if name in ("links", "mates"):
        from tests.fuzz import clusters  # whole nodes: the others do without

        return clusters.TARGETS[name]()
    from tests.fuzz import handshakes, streams

    return {**handshakes.TARGETS, **streams.TARGETS}[name]()


def own(name: str, inputs: int, seed: int) -> list[str]:
    """Inputs made by structure; what they found."""
    from tests.fuzz.handshakes import Found
    from tests.fuzz.mutating import Mutator

    logging.getLogger("actorfw").setLevel(logging.CRITICAL)
    start = time.perf_counter()
    findings: list[str] = []
    try:
        aimed = target(name)
    except Found:  # not even good input passes
        return [traceback.format_exc()[-3000:]]
    if hasattr(aimed, "run"):
        before = _peak()
        try:
            aimed.run(inputs, seed)
        except Exception:  # whatever it is, it is what was looked for
            findings.append(traceback.format_exc()[-3000:])
    else:
        mutator = Mutator(seed)
        seeds = aimed.seeds()
        before = _peak()
        for number in range(-len(seeds), inputs):
            data = seeds[number] if number < 0 else mutator.random.choice(seeds)
            for _ in () if number < 0 else range(mutator.random.choice((1, 1, 2))):
                try:
                    data = aimed.mutated(data, mutator)
                except (TypeError, ValueError, IndexError, KeyError, OverflowError):
                    data = mutator.bytes(data)  # its structure is gone already
            since = time.perf_counter()
            try:
                aimed.one(data)
            except Exception:  # whatever it is, it is what was looked for
                findings.append(f"input {number}, {data[:2000]!r}:\n{traceback.format_exc()[-3000:]}")
            if time.perf_counter() - since > SLOW_SECONDS:
                findings.append(f"input {number}, {data[:2000]!r} took {time.perf_counter() - since:.1f} s")
            if len(findings) >= AT_ONCE:
                break
    took = time.perf_counter() - start
    grown = _peak() - before
    if grown > getattr(aimed, "growth", GROWTH_BYTES):
        findings.append(f"memory grew by {grown >> 20} MiB")
    print(f"{name}: {inputs:,} inputs, {inputs / took:,.0f}/s, memory +{grown >> 20} MiB; {aimed.over()}", flush=True)
    return findings


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def guided(name: str, inputs: int, seed: int) -> None:
    """The same under atheris; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["actorfw.core.handshake", "actorfw.wire", "actorfw.runtime.links"]):
        from actorfw.core import handshake  # noqa: F401
        from actorfw.runtime import links  # noqa: F401
        from actorfw.wire import codec, frames, payload  # noqa: F401
    from tests.fuzz.mutating import Mutator

    logging.getLogger("actorfw").setLevel(logging.CRITICAL)
    aimed = target(name)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        mutator = Mutator(number)
        if mutator.random.random() < 0.5:
            try:
                return bytes(aimed.mutated(data, mutator))[:most]
            except (TypeError, ValueError, IndexError, KeyError, OverflowError):
                pass  # its structure is gone already
        return bytes(atheris.Mutate(data, most))

    with tempfile.TemporaryDirectory() as corpus:
        for number, good in enumerate(aimed.seeds()):
            Path(corpus, str(number)).write_bytes(good)
        limits = [f"-runs={inputs}", f"-seed={seed}", "-max_len=131072", "-timeout=10", "-rss_limit_mb=2048"]
        arguments = [sys.argv[0], corpus, *limits, "-print_final_stats=1", f"-artifact_prefix={corpus}/found-"]
        atheris.Setup(arguments, aimed.one, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> int:
    """Runs all targets that are named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(INPUTS))
    parser.add_argument("--share", type=float, default=100.0, help="percent of the usual inputs")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--engine", choices=["atheris", "own"], default=None)
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.within:
        name = given.targets[0]
        inputs = max(1, round(INPUTS[name] * given.share / 100))
        if given.engine == "atheris":
            guided(name, inputs, given.seed)
        findings = own(name, inputs, given.seed)
        print("\n".join(findings), file=sys.stderr)
        return 1 if findings else 0
    failed = 0
    total = 0
    start = time.perf_counter()
    print(f"seed {given.seed}", flush=True)
    engines = [given.engine] if given.engine else ["own", *["atheris"] * bool(importlib.util.find_spec("atheris"))]
    for name, engine in [(name, engine) for name in given.targets or INPUTS for engine in engines]:
        if engine == "atheris" and name in ("links", "mates"):
            continue  # they are no function of bytes
        share = given.share / GUIDED if engine == "atheris" else given.share
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--within", "--engine", engine]
        done = subprocess.run(
            [*command, "--share", str(share), "--seed", str(given.seed)], capture_output=True, text=True
        )
        total += max(1, round(INPUTS[name] * share / 100))
        print(done.stdout.strip(), flush=True)
        if engine == "atheris":
            print(f"{name}: {_said_at_the_end(done.stderr)}", flush=True)
        if done.returncode:
            failed += 1
            print(f"{name}: FOUND (exit status {done.returncode})\n{done.stderr[-6000:]}", flush=True)
    print(f"{total:,} inputs in {time.perf_counter() - start:.0f} s; {failed} targets found something", flush=True)
    return 1 if failed else 0


def _said_at_the_end(text: str) -> str:
    lines = text.splitlines()
    stats = [line.removeprefix("stat::").strip() for line in lines if line.startswith("stat::")]
    last = next((line for line in reversed(lines) if " cov: " in line), "")
    return "; ".join([f"atheris, {last.partition('exec/s')[0].strip()}", *(" ".join(stat.split()) for stat in stats)])


if __name__ == "__main__":
    sys.exit(main())
