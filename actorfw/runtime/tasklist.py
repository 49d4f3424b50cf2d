"""The tasks of a cluster that are not done: what each waits for, where it runs, and ending one by its id.

Nothing is kept for a listing: it is put together from what submitters and executors know anyway. Who has submitted a
task says what it is called, when it was made and how often it was tried; who has it now says what becomes of it there.
The loop is held up for a slice of the tasks at a time, as there may be a million.
"""

from __future__ import annotations

import asyncio
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.placement import Infeasible
from actorfw.runtime.brokentasks import started_of
from actorfw.runtime.canvass import Canvass, pack_answer, unpack_answer
from actorfw.runtime.refs import FAILED
from actorfw.runtime.rows import TASK_STATES, TaskRow, TaskState
from actorfw.values.errors import ActorFwError, PeerUnreachableError, UsageError
from actorfw.values.ids import node_id_of, parse_text_id, text_id

if TYPE_CHECKING:
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.refs import Reply
    from actorfw.runtime.submitted import Task

__all__ = ["MOST", "TaskList"]

MOST: Final = 5_000  # rows of one listing
_SLICE: Final = 5_000  # tasks looked at in one turn of the loop
_SHORTEST: Final = 4  # characters of the end of an id by which a task may be named
_NAMED: Final = 5  # candidates that an error names

Said = dict[str, Any]
"""What one node says of one task: fields of its row."""


class TaskList:
    """The tasks of all nodes, seen from one."""

    def __init__(self, node: Node) -> None:
        self.node = node
        verbs = node.asks.verbs
        verbs["tasks"] = self._asked
        verbs["cancel_listed"] = lambda peer, payload: self._cancel_here(*payload)

    # -- of the whole cluster ------------------------------------------------------------------------------------------

    async def everywhere(
        self, canvass: Canvass, limit: int, name: str | None = None, states: list[str] | None = None
    ) -> tuple[list[TaskRow], int]:
        """The tasks that are nearest to their end first, then the oldest; and how many there are.

        Args:
            canvass: asks the members.
            limit: rows at most.
            name: of the tasks, or a pattern with * and ?.
            states: those that are wanted; None: all.

        Raises:
            UsageError: an argument is wrong.
        """
        if type(limit) is not int or not 1 <= limit <= MOST:
            raise UsageError(f"limit is {limit!r}; it must be between 1 and {MOST}")
        wanted = set(TASK_STATES) if states is None else set(states)
        if not wanted <= set(TASK_STATES):
            wrong = ", ".join(sorted(map(repr, wanted - set(TASK_STATES))))
            raise UsageError(f"no task has the state {wrong}; the states are {', '.join(TASK_STATES)}")
        asking = asyncio.ensure_future(canvass.ask("tasks", [limit, name, sorted(wanted)]))
        own = await self._own(limit, name, sorted(wanted))
        answers = [own, *map(unpack_answer, (await asking).values())]
        submitted: dict[str, Said] = {}
        here: dict[str, Said] = {}
        total = 0
        for answer in answers:
            total += answer["hidden"]
            submitted.update((said["id"], said) for said in answer["submitted"])
            here.update((said["id"], said) for said in answer["here"] if said["attempt"] >= _attempt(here, said))
        rows: list[TaskRow] = []
        for id in {**submitted, **here}:
            said = submitted.get(id, {})
            ran = here.get(id, {})
            if said and said["state"] != "sent":
                ran = {}  # an attempt that was given up for lost, and may still run
            row = self._row({**ran, **said, **{key: ran[key] for key in ("state", "since", "pid") if key in ran}})
            if row.state in wanted:
                rows.append(row)
        rows.sort(key=lambda row: (_ORDER[row.state], row.created_at or 0.0, row.id))
        return rows[:limit], total + len(rows)

    def _row(self, said: Said) -> TaskRow:
        names = {fact.node_id: fact.name for fact in self.node.members.facts.values()}
        at, by = said.get("node_id", ""), said["submitter_id"]
        fields: Said = {**said, "node": names.get(at, at), "submitter": names.get(by, by), "node_id": at}
        return TaskRow(**fields)

    async def cancel(self, which: str, *, force: bool, recursive: bool) -> TaskRow:
        """Cancel the task of this id or end of an id; by its whole id any call, too.

        Returns:
            It, as it was.

        Raises:
            UsageError: several have it.
            ActorFwError: there is none, or not any more.
            PeerUnreachableError: the node that submitted it does not answer.
        """
        canvass = Canvass(self.node)
        try:
            life, number = parse_text_id(which)
        except ValueError:
            life, number = b"", 0
        if life not in self.node.members.facts:
            rows, _ = await self.everywhere(canvass, MOST)
            found = [row for row in rows if len(which) >= _SHORTEST and row.id.endswith(which)]
            if not found:
                short = f" (of an end of an id, give {_SHORTEST} characters or more)" if len(which) < _SHORTEST else ""
                raise ActorFwError(
                    f"no task has the id {which!r}, or it is done{short}; `actorfw tasks` lists those that are not"
                    + (f" ({', '.join(canvass.silent.values())} gave no answer)" if canvass.silent else "")
                )
            if len(found) > 1:
                several = ", ".join(f"{row.id} ({row.name})" for row in found[:_NAMED])
                more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
                raise UsageError(f"{which!r} may be any of {several}{more}: give more of the id")
            life, number = parse_text_id(found[0].id)
        said = await self._cancel_at(life, number, force, recursive)
        if said is None:
            raise ActorFwError(f"nothing with the id {text_id((life, number))} can be cancelled any more: it is done")
        return self._row(said)

    async def _cancel_at(self, life: bytes, number: int, force: bool, recursive: bool) -> Said | None:
        node = self.node
        if life == node.life:
            return self._cancel_here(number, force, recursive)
        peer = node.members.peer(life)
        if peer is None:
            raise PeerUnreachableError("the node that submitted it is gone, and its tasks end with it")
        canvass = Canvass(node)
        key = node_id_of(life)
        answers = await canvass.ask_each("cancel_listed", {key: [number, force, recursive]})
        if key not in answers:
            raise PeerUnreachableError(
                f"node {peer.name}, which submitted it, gives no answer: try again when it runs, or `actorfw kill` what"
                " keeps it"
            )
        said: Said | None = answers[key]
        return said

    def _cancel_here(self, number: int, force: bool, recursive: bool) -> Said | None:
        """Cancel a task or call of this node's; what it was, None if there is none."""
        node = self.node
        task = node.tasks.of_number(number)
        call = node.calls.open.get(number)
        if task is not None and not task.rerun:
            said = self._of_task(task, {})
            node.tasks.cancel(task.no, force=force, recursive=recursive, mark=FAILED)
            return said
        if call is not None:
            said = _said(text_id((node.life, number)), call.method, "running" if call.sent else "queued", node.id)
            node.calls.cancel(number, FAILED)
            return said
        if force:  # it was cancelled before, and may not have obeyed
            node.cancel_number(number, force=True, recursive=recursive)
        return None

    # -- of this node --------------------------------------------------------------------------------------------------

    def _asked(self, peer: Peer, question: Any) -> Reply[Any]:
        limit, name, states = question
        return self.node.verbs.begin("tasks", pack_answer(self._own(limit, name, states)))

    async def _own(self, limit: int, name: str | None, states: list[str]) -> dict[str, Any]:
        """What this node knows: `submitted` here, at most `limit` of those that are nowhere yet, `hidden` more of them;
        and what is `here` of others."""
        node = self.node
        node.births.look()
        wanted = set(states)
        started: list[Task] = []
        waiting: list[Task] = []
        hidden = 0
        every = list(node.tasks.open.values())
        for at in range(0, len(every), _SLICE):
            if at:
                await asyncio.sleep(0)
            for task in every[at : at + _SLICE]:
                if task.settled or not (name is None or fnmatchcase(task.name, name)):
                    continue
                if task.place is not None or task.started:
                    # Of what is elsewhere the other node knows the state.
                    if len(started) < MOST and (task.place is not None or self._state(task) in wanted):
                        started.append(task)
                elif self._state(task) in wanted:
                    if len(waiting) < limit:
                        waiting.append(task)
                    else:
                        hidden += 1
        here = [
            self._of_execution(exe)
            for exe in list(node.execution._foreign.values())
            if not exe.cancelled and (name is None or fnmatchcase(exe.name, name))
        ]
        whys: dict[Any, str] = {}
        submitted = [self._of_task(task, whys) for task in (*started, *waiting)]
        return {"submitted": submitted, "here": here, "hidden": hidden}

    def _of_task(self, task: Task, whys: dict[Any, str]) -> Said:
        node = self.node
        at = node.life if task.started else task.place.life if task.place is not None else None
        said = _said(text_id((node.life, task.no)), task.name, self._state(task), node.id)
        said.update(
            node_id="" if at is None else node_id_of(at),
            attempt=task.attempt,
            executor=task.recipe.executor,
            created_at=node.births.of(task.no),
            since=self._since(task),
            pid=self._pid(task),
            parent=self._parent(task),
            detail=self._detail(task, whys),
        )
        return said

    def _of_execution(self, exe: Execution) -> Said:
        assert exe.peer is not None
        life = exe.peer.life
        said = _said(text_id((life, exe.no)), exe.name, self._state(exe), node_id_of(life))
        said.update(
            node_id=self.node.id,
            attempt=exe.attempt,
            executor=exe.recipe.executor,
            since=self._since(exe),
            pid=self._pid(exe),
        )
        return said

    def _state(self, exe: Task | Execution) -> TaskState:
        if exe.started:
            worker = exe.worker
            if worker is None:
                return "running" if exe.runner is not None else "starting"
            if not exe.dispatched:
                return "starting"
            return "running" if self._runs_now(exe) else "queued"
        if exe.peer is not None:
            return "queued" if exe.since else "starting"
        task = exe
        if getattr(task, "place", None) is not None:
            return "sent"
        if getattr(task, "queue", None) is not None:
            return "queued"
        return "retrying" if task.attempt > 1 else "waiting_for_arguments"

    def _runs_now(self, exe: Task | Execution) -> bool:
        """Of the tasks that a worker has, it runs the one that it noted last."""
        worker = exe.worker
        begun = started_of(worker.running, worker.process.begun()) or started_of(worker.running, None)
        return bool(begun) and begun[-1] is exe

    def _since(self, exe: Task | Execution) -> float | None:
        """When it began to be as it is, in seconds since 1970, where that is known."""
        env = self.node.env
        when = 0.0
        if not exe.started:
            when = exe.since
        elif exe.worker is not None and exe.dispatched and self._runs_now(exe):
            when = exe.worker.mark
        return env.wall_time() - (env.time() - when) if when else None

    def _pid(self, exe: Task | Execution) -> int | None:
        if not exe.started:
            return None
        return exe.worker.pid if exe.worker is not None else self.node.env.pid

    def _parent(self, task: Task) -> str:
        parent = self.node.execution.by_serial.get(task.parent) if task.parent else None
        if parent is None:
            return ""
        return text_id((self.node.life if parent.peer is None else parent.peer.life, parent.no))

    def _detail(self, task: Task, whys: dict[Any, str]) -> str:
        """Why it waits, if not just for its turn; `whys` has the reasons that were found before."""
        if not task.told_infeasible or task.queue is None:
            return ""
        why = whys.get(task.key)
        if why is None:
            choice = self.node.members.choose(task, task.key[1], task.key[2], None)
            why = whys[task.key] = choice.text if isinstance(choice, Infeasible) else ""
        return why


_ORDER: Final = {state: at for at, state in enumerate(TASK_STATES)}


def _attempt(known: dict[str, Said], said: Said) -> int:
    before = known.get(said["id"])
    return 0 if before is None else int(before["attempt"])


def _said(id: str, name: str, state: TaskState, submitter: str) -> Said:
    return {"id": id, "name": name, "state": state, "submitter_id": submitter}
