"""The demo from its start to its exit status: the plain run, the cluster, the checks, and what is shown of them.

The table, or with `--json` the object, goes to stdout; progress and all talk to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import actorfw
from actorfw.demo.corpus import Chunk, Tally, chunks, count_plainly, files_in, standard_library
from actorfw.demo.job import Outcome, count_on_cluster
from actorfw.values.errors import ActorDiedError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Report", "main"]

Table: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[str]]], None]

CHUNKS_PER_PEER = 8  # at least, where there are files enough: so that every peer has work when one is killed


@dataclass(slots=True)
class Report:
    """What the demo found out.

    Attributes:
        checks: what must hold, and whether it does.
        seconds: of the plain run, of starting the cluster, and of the run on it.
    """

    folder: str
    files: int
    bytes: int
    chunks: int
    words: int = 0
    distinct_words: int = 0
    index_entries: int = 0
    ran_again: int = 0
    killed: str | None = None
    peers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    checks: dict[str, bool] = field(default_factory=dict[str, bool])

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(self.checks.values())


def main(table: Table, *, peers: int = 3, path: str | None = None, as_json: bool = False, keep: bool = False) -> bool:
    """Run the demo; True if every check holds.

    Args:
        table: prints one: its head, and its rows.
        peers: how many to start. With two or more, the last one is killed half-way.
        path: folder of the files; None means the standard library.
        as_json: print one JSON object instead of the table.
        keep: leave the cluster up until Ctrl-C.

    Raises:
        UsageError: no peers, or no files.
    """
    if peers < 1:
        raise UsageError(f"--peers is {peers}; the work needs at least one")
    folder = path if path is not None else standard_library()
    files = files_in(folder)
    cut = chunks(files, CHUNKS_PER_PEER * peers)
    with _progress() as progress:
        plain, took, read = _plain_run(files, progress)
        report = Report(folder, len(files), read, len(cut), seconds={"plain": took})
        actorfw.run(_on_cluster(report, plain, cut, peers, progress, None if as_json else table, keep=keep))
    return report.ok


def _plain_run(files: list[str], progress: _Bar) -> tuple[Tally, float, int]:
    progress.begin("one process", len(files))
    began = time.perf_counter()
    tally = count_plainly(files, progress.step)
    return tally, time.perf_counter() - began, sum(map(os.path.getsize, files))


async def _on_cluster(
    report: Report, plain: Tally, cut: list[Chunk], peers: int, progress: _Bar, table: Table | None, *, keep: bool
) -> None:
    began = time.perf_counter()
    progress.begin(f"starting {peers} peers", 1)
    async with actorfw.LocalCluster(nodes=peers, num_cpus=1, driver_cpus=0) as cluster:
        started = time.perf_counter()
        report.seconds["start"] = started - began
        progress.begin(f"{peers} peers", len(cut))
        try:
            outcome = await count_on_cluster(cluster, cut, progress.step)
        except ActorDiedError as error:
            if error.reason == "node_died":
                raise ActorDiedError(
                    f"a peer died that was not to be killed, and with it what its reducing actor had added up: {error}",
                    reason=error.reason,
                    ran=error.ran,
                ) from error
            raise
        report.seconds["cluster"] = time.perf_counter() - started
        _judge(report, outcome, plain, len(cut))
        progress.close()
        _show(report, table)
        if keep:
            await _until_told(cluster)


def _judge(report: Report, outcome: Outcome, plain: Tally, cut: int) -> None:
    tally = outcome.tally
    report.words = tally.totals.total()
    report.distinct_words = len(tally.totals)
    report.index_entries = sum(map(len, tally.index.values()))
    report.ran_again = outcome.ran_again
    report.peers = [asdict(peer) for peer in outcome.peers]
    lost = {peer.name for peer in outcome.peers if peer.killed}
    report.killed = next(iter(lost), None)
    report.checks = {
        "word counts equal those of one process": tally.totals == plain.totals,
        "index equals that of one process": tally.index == plain.index,
        "each chunk was reduced once by each reducer": all(
            sorted(given) == list(range(cut)) for given in outcome.chunks
        ),
        "the killed peer is gone, the others are members": sorted(outcome.left)
        == sorted(peer.name for peer in outcome.peers if not peer.killed),
    }
    if cut >= CHUNKS_PER_PEER // 2 * len(outcome.peers):
        report.checks["every peer finished some tasks"] = all(peer.tasks for peer in outcome.peers)
    if len(outcome.peers) > 1:
        report.checks["one peer was killed half-way"] = len(lost) == 1


def _show(report: Report, table: Table | None) -> None:
    if table is None:
        print(json.dumps({"ok": report.ok, **asdict(report)}, indent=2), flush=True)
        return
    again = f"{report.ran_again} {'task' if report.ran_again == 1 else 'tasks'} ran again"
    fate = f"{report.killed} was killed, {again}" if report.killed else f"none was killed, {again}"
    rows = [
        ["files", f"{report.files:,}", f"{report.bytes / 1e6:.1f} MB"],
        ["words", f"{report.words:,}", f"{report.distinct_words:,} different"],
        ["index", f"{report.index_entries:,}", "entries: a word, and a file that has it"],
        ["tasks", f"{report.chunks:,}", fate],
        *([f"peer {peer['index']}", f"{peer['tasks']:,}", _role(peer)] for peer in report.peers),
        ["one process", f"{report.seconds['plain']:.2f} s", ""],
        ["cluster", f"{report.seconds['cluster']:.2f} s", f"and {report.seconds['start']:.2f} s to start"],
        *(["check", "holds" if holds else "FAILS", what] for what, holds in report.checks.items()),
    ]
    table(["", "", report.folder], rows)
    sys.stdout.flush()


def _role(peer: dict[str, Any]) -> str:
    fate = ", killed half-way" if peer["killed"] else ", with a reducing actor" if peer["reduces"] else ""
    return f"tasks done at {peer['address']}{fate}"


async def _until_told(cluster: actorfw.LocalCluster) -> None:
    print(
        f"the cluster stays up: actorfw nodes --seed {cluster.node.address}\nCtrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _progress() -> Generator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    with bars:
        yield _Bar(bars)


class _Bar:
    """One line after the other."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._line: TaskID | None = None

    def begin(self, what: str, steps: int) -> None:
        if self._line is not None:
            self._bars.update(self._line, completed=self._bars.tasks[self._line].total)
        self._line = self._bars.add_task(what, total=steps, note="")

    def step(self, note: str = "") -> None:
        if self._line is not None:
            self._bars.update(self._line, advance=1, note=note)

    def close(self) -> None:
        self._bars.stop()
