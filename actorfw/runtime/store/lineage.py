"""`Rebuilding`: a node's part in making lost values again, by running once more the tasks that had made them.

What is kept of a finished task is the task itself: its code, its arguments, and how often it may still run. Which tasks
are kept, and which run for what, `core.lineage` decides; they run as `runtime.tasks` runs any, and what they bring goes
to the refs that wait, first writing wins: a value that is still there is left as it is. This is also where an object
that can't be made again gets the error that says why.

Arguments that can be made again are not held for the sake of a kept task; others of this node's own are, and their
bytes count as lineage. Those that another node owns, and handles, are not held: they may be gone when it runs.

Leaves to others: noticing that a value is lost (`locations`, `residence`), and who has it (`core.sources`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.core.credit import FIRST_ITEM, ITEM_BITS, ITEMS
from actorfw.core.lineage import Lineage, Why
from actorfw.runtime.outbox import OVERHEAD
from actorfw.runtime.refs import FAILED, PENDING, READY, ObjectRef
from actorfw.runtime.store.elsewhere import Elsewhere
from actorfw.values.errors import NodeClosedError, ObjectLostError
from actorfw.values.ids import RefId, is_detached, short, text_id
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error, unpack_error
from actorfw.wire.payload import Packed, size_of

if TYPE_CHECKING:
    from actorfw.core.renaming import Renaming
    from actorfw.runtime.node import Node
    from actorfw.runtime.submitted import Task

__all__ = ["Rebuilding"]

logger = logging.getLogger("actorfw.objects")

SPEC: Final = 1024 - OVERHEAD
"""What a kept task takes, beside its arguments."""


class Rebuilding:
    """The lineage of one node's own objects.

    Attributes:
        machine: decides.
        rebuilt: tasks that were run again for a lost value.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.machine = Lineage(node.config.max_lineage, self._missing)
        self.rebuilt = 0
        self._tasks: dict[int, Task] = {}
        self._wanted: dict[int, dict[int, ObjectRef[Any]]] = {}  # of each task that runs again, by number
        self._items: dict[int, Task] = {}  # tasks with items of their own number, by the part that these share
        self._of_task: dict[int, set[int]] = {}  # the items of each that are held
        self._then: dict[int, list[Callable[[], object]]] = {}  # to be done when an object is there again
        self._waiting: dict[int, set[int]] = {}  # items that were lost while their task goes on, by its number

    # -- what is kept --------------------------------------------------------------------------------------------------

    def made(self, task: Task, refs: Iterable[ObjectRef[Any]]) -> None:
        """A task has ended well, and these of its results are large."""
        for ref in refs:
            self.node.objects.export_ref(ref)  # to hear when it is let go
        self._keep(task, [ref._number for ref in refs], items=False)

    def _keep(self, task: Task, numbers: list[int], *, items: bool) -> None:
        needs, size = self._let_go(task.args)
        self._tasks[task.no] = task
        task.dep_refs = None
        self._do(self.machine.keep(task.no, numbers, needs, SPEC + size, task.retries_left, items=items))

    def _let_go(self, args: Any) -> tuple[list[int], int]:
        """Hold of the refs in arguments only what can't be made again and is this node's to hold.

        Returns the numbers of what can be, and the bytes that all the rest takes.
        """
        size = size_of(args) if args is not None else 0
        needs: list[int] = []
        if type(args) is not Packed or args.hold is None:
            return needs, size
        objects = self.node.objects
        for at, (owner, number, _) in enumerate(args.refs):
            if owner == self.node.life and self.machine.makes(number):
                needs.append(number)
                args.hold[at] = None
            elif owner == self.node.life and number in objects._exported:
                size += _size_of(objects._exported[number])
            else:
                args.hold[at] = None
        return needs, size

    def freed(self, number: int) -> None:
        """Nobody holds one of this node's own objects any more."""
        if number >= FIRST_ITEM:
            task = self._items.get(number >> ITEM_BITS)
            if task is not None:
                self._of_task[task.no].discard(number)
                if not self._of_task[task.no] and task.settled and task.no not in self._tasks:
                    self._forget_items(task)
        self._do(self.machine.freed(number))

    def _forget(self, no: int) -> None:
        task = self._tasks.pop(no, None)
        if task is not None:
            task.args = None
            self._forget_items(task)

    def _forget_items(self, task: Task) -> None:
        if task.first_item:
            self._items.pop(task.first_item >> ITEM_BITS, None)
            self._of_task.pop(task.no, None)
            self._waiting.pop(task.no, None)

    # -- items ---------------------------------------------------------------------------------------------------------

    def number_items(self, task: Task) -> None:
        """The large items of a generator stay where they are made, and so have numbers, from now on."""
        if not task.first_item:
            task.first_item = FIRST_ITEM | self.node.next_number() << ITEM_BITS
            self._items[task.first_item >> ITEM_BITS] = task
            self._of_task[task.no] = set()

    def item(self, task: Task, number: int, there: Elsewhere, made: Any) -> ObjectRef[Any]:
        """A new item stays where it was made: a ref to it."""
        ref = self.node.objects.made(number)
        ref._made = made
        self.node.objects.settled(ref, READY, there)
        self._of_task[task.no].add(number)
        return ref

    def item_again(self, task: Task, index: int, out: Any) -> bool:
        """An item that was here before. Returns whether it is wanted."""
        number = task.first_item + index
        if number not in self.node.objects._exported or not self._missing(number):
            return False  # nobody holds it, or the first one is still there
        self._deliver(number, self.node.objects.adopt(self.node.life, number, ""), READY, out)
        self._waiting.get(task.no, set()).discard(number)
        return True

    def streamed(self, task: Task) -> None:
        """A generator has ended, one way or another; items of it may be held."""
        numbers = self._of_task.get(task.no)
        if numbers:
            waiting = self._waiting.pop(task.no, set())
            self._keep(task, sorted(numbers), items=True)
            for number in sorted(waiting):
                if self._missing(number):
                    self._do(self.machine.lost(number))
        else:
            self._forget_items(task)

    # -- what is lost --------------------------------------------------------------------------------------------------

    def _missing(self, number: int) -> bool:
        """Whether no node has a live object any more, nor is about to."""
        node = self.node
        outcome = node.objects._exported.get(number)
        if outcome is None or outcome[0] != m.STORED:
            return False
        entry = node.locations.directory((node.life, number))
        return entry is None or not (entry.nodes or entry.others)

    def when_there(self, id: RefId, then: Callable[[], object]) -> None:
        """Call `then()` when some node has this object, which has no value here. If it is lost it is made again.

        A task that waited for that on its node would keep a CPU, and perhaps the one that it takes to make it.
        """
        if id[0] == self.node.life and self._missing(id[1]):
            self._then.setdefault(id[1], []).append(then)
            self.lost(id)
        else:
            then()

    def _settled(self, number: int) -> None:
        for then in self._then.pop(number, ()):
            then()

    def lost(self, id: RefId) -> None:
        """Somebody wants an object of this node's of which no copy is left."""
        number = id[1]
        if id[0] != self.node.life:
            why = "how it was made was known to its first owner only, which has left"
            self._fail(id, ObjectLostError(f"{self._named(id)} is lost, and can't be made again: {why}"))
            return
        if number >= FIRST_ITEM:
            task = self._items.get(number >> ITEM_BITS)
            if task is not None and not task.settled and task.no not in self._tasks:
                self._waiting.setdefault(task.no, set()).add(number)  # until it has ended
                return
        self._do(self.machine.lost(number))

    def _do(self, instructions: list[Any]) -> None:
        runs: list[tuple[Task, dict[int, ObjectRef[Any]]]] = []
        for what, no, *more in instructions:
            if what == "forget":
                self._forget(no)
            elif what == "fail":
                id = (self.node.life, no)
                why = f"{self._named(id)} is lost, and can't be made again: {self._why(more[0])}"
                self._fail(id, ObjectLostError(why))
            elif what == "also":
                self._wanted[no].update(self._pending(more[0]))
            else:
                task = self._tasks[no]
                # All of them, before the first runs: arguments of one are results of another.
                runs.append((task, self._pending(more[0])))
                self._hold(task.args)
        for task, wanted in runs:
            self._wanted[task.no] = wanted
            if task.first_item:
                task.wanted = [ITEMS, task.first_item, 0, [number - task.first_item for number in wanted]]
            self._run(task)

    def _pending(self, numbers: Iterable[int]) -> dict[int, ObjectRef[Any]]:
        """The refs of what is to be made; that of one that was freed comes to be again."""
        objects = self.node.objects
        found: dict[int, ObjectRef[Any]] = {}
        for number in numbers:
            id = (self.node.life, number)
            if number not in objects._exported:
                ref = objects.made(number)
                objects._exported[number] = None
                objects._refs[id] = ref
                ref._grip = objects.grip(id)
            found[number] = objects.adopt(*id, "")
        return found

    def _hold(self, args: Any) -> None:
        if type(args) is Packed and args.hold is not None:
            for at, (owner, number, _) in enumerate(args.refs):
                if args.hold[at] is None and not is_detached(owner):
                    args.hold[at] = self.node.objects.grip((owner, number))

    def _run(self, task: Task) -> None:
        self.rebuilt += 1
        logger.info("task %s runs again: what it had made was lost", task.name)
        task.reset()
        task.settled = False
        task.rerun = True
        task.attempt += 1
        task.retries_left -= task.retries_left > 0
        task.excluded = None
        task.parent = 0
        timeout = task.options.get("timeout")
        task.deadline = None if timeout is None else self.node.env.time() + timeout
        self.node.tasks.resume(task)

    # -- what a second run brings --------------------------------------------------------------------------------------

    def ran(self, task: Task, state: int, out: Any) -> None:
        """A task that ran again has ended."""
        wanted = self._wanted.pop(task.no, {})
        if state == m.ERROR:
            for number, ref in wanted.items():
                self._deliver(number, ref, FAILED, self._failed(task, number, out))
        elif task.first_item:
            for number, ref in wanted.items():
                if self._missing(number):
                    self._do(self.machine.not_reached(number))
                    why = f"its generator {task.name} ran again, and ended before this item"
                    error = ObjectLostError(f"{self._named((self.node.life, number))} is lost: {why}")
                    self._deliver(number, ref, FAILED, self._packed(error))
        else:
            outs = out if state == m.PARTS else [out]
            for number, part in zip(task.returns, outs, strict=True):
                one = wanted.get(number)
                if one is not None and self._is_wanted(number):
                    self._deliver(number, one, READY, part)
                elif type(part) is Elsewhere:
                    self._decline(number, part)
        for number in wanted:
            self._settled(number)  # of one that was found elsewhere meanwhile, too
        wanted.clear()
        self._let_go(task.args)
        task.dep_refs = None
        task.settled = True
        self._do(self.machine.ended(task.no, task.retries_left))

    def _is_wanted(self, number: int) -> bool:
        """Whether this object has still no value."""
        outcome = self.node.objects._exported.get(number, self)
        return outcome is None or (outcome is not self and self._missing(number))

    def _decline(self, number: int, there: Elsewhere) -> None:
        entry = self.node.locations.directory((self.node.life, number))
        peer = self.node.members.peer(there.life)
        if peer is not None and (entry is None or entry.version != there.version):
            self.node.locations.decline(peer, [(number, there.version)])

    def _deliver(self, number: int, ref: ObjectRef[Any], state: int, out: Any) -> None:
        node = self.node
        id = (node.life, number)
        outcome = node.objects._exported.get(number)
        if type(out) is not Elsewhere and outcome is not None and outcome[0] == m.STORED:
            node.locations.remade(id, state, out)
        elif ref._state == PENDING:
            node.objects.settled(ref, state, out)
        self._settled(number)

    # -- errors --------------------------------------------------------------------------------------------------------

    def _failed(self, task: Task, number: int, out: Any) -> Any:
        error = unpack_error(self.node.codec, out)
        if isinstance(error, NodeClosedError):
            return out
        named = self._named((self.node.life, number))
        lost = ObjectLostError(f"{named} is lost, and its task {task.name}, run again, failed: {error}")
        lost.__cause__ = error
        return self._packed(lost)

    def _fail(self, id: RefId, error: ObjectLostError) -> None:
        out = self._packed(error)
        self.node.locations.remade(id, FAILED, out)
        self._settled(id[1])

    def _packed(self, error: Exception) -> Any:
        return pack_error(self.node.codec, error, where=self.node.name, infrastructure=True)

    def _named(self, id: RefId) -> str:
        line = self.node.objects.line_of(id)
        return f"object {text_id(id)}" + (f" (made at {line})" if line else "")

    def _why(self, why: Why) -> str:
        text = self._reason(why)
        if not why.argument:
            return text
        argument = f"its task needs {self._named((self.node.life, why.argument))}, which is gone as well"
        if why.root == why.argument:
            return f"{argument}: {text}"
        return f"{argument} and needs {self._named((self.node.life, why.root))}: {text}"

    def _reason(self, why: Why) -> str:
        most = self.machine.most
        texts = {
            "put": "no task made it",
            "actor": "a method of an actor made it, and those run once",
            "no_retries": "its task has max_retries=0, and runs at most once",
            "used_up": "its task has run as often as its max_retries allow",
            "evicted": f"how it was made was forgotten, for room: Config.max_lineage is {most:,} bytes",
            "too_large": f"its task and arguments take more than Config.max_lineage, {most:,} bytes, to keep",
            "not_reached": "its generator ran again, and ended before this item",
        }
        return texts[why.reason]

    # -- ends ----------------------------------------------------------------------------------------------------------

    def reborn(self, renaming: Renaming) -> None:
        """The node takes a new life. What nobody holds for a kept task has to be renamed here."""
        for task in self._tasks.values():
            if task.settled:  # those that run again are renamed as all that run are
                task.deps = renaming.deps(task.deps)
            if type(task.args) is Packed:
                refs = task.args.refs
                refs[:] = [(renaming.life(owner), number, address) for owner, number, address in refs]

    def __repr__(self) -> str:
        return f"<Rebuilding of {short(self.node.life)}: {len(self._tasks)} tasks, {self.machine.size} bytes>"


def _size_of(outcome: tuple[int, Any] | None) -> int:
    """Bytes of an object that is held."""
    if outcome is None or outcome[0] == FAILED:
        return 0
    return int(outcome[1]) if outcome[0] == m.STORED else size_of(outcome[1])
