"""`Items`: what generators yield, on its way from the node that runs them to the one that has their stream.

A large item stays where it was made, as a large result does: the consumer's node is told of it and has a ref, whose
number follows from the number of the stream's first item and its place. So whoever runs the generator again makes the
same objects. Streams that a worker process consumes are an exception: their items come as values to its node.

Leaves to others: running generators, how far they may be ahead (`core.credit`), and handing items out (`streams`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actorfw.core.credit import FIRST_ITEM, ITEM_BITS, first_of
from actorfw.runtime.objects import is_large
from actorfw.runtime.refs import READY
from actorfw.runtime.store.elsewhere import Elsewhere, is_elsewhere
from actorfw.runtime.streams import Stream
from actorfw.wire import messages as m

if TYPE_CHECKING:
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer
    from actorfw.runtime.routes import ActorCall
    from actorfw.runtime.submitted import Task

__all__ = ["Items"]

_MOST: Final = 1 << ITEM_BITS  # later items have no number of their own, and come as values


class Items:
    """The items of one node's generators, and of the streams that are consumed on it."""

    def __init__(self, node: Node) -> None:
        self.node = node

    # -- from here -----------------------------------------------------------------------------------------------------

    def send(self, peer: Peer, no: int, index: int, attempt: int, out: Any, first: int) -> None:
        """An item of a task or call of another node's. `first`: the number of its first item; 0: it has none."""
        node = self.node
        if first and index < _MOST and is_large(out) and not node.leaving.begun:
            out = node.copies.made((peer.life, first + index), attempt, out)
            peer.send((m.ITEM, no, index, attempt, out))
        else:
            node.outbound.send_value(peer, (m.ITEM, no, index, attempt), out)

    def of_execution(self, exe: Execution, index: int, out: Any) -> None:
        """An item of a generator task that runs here."""
        exe.items += 1
        if exe.peer is None:
            self.of_task(exe, index, out)  # type: ignore[arg-type]  # it is its own execution
        else:
            self.send(exe.peer, exe.no, index, exe.attempt, out, exe.first_item)

    # -- to here -------------------------------------------------------------------------------------------------------

    def on_item(self, peer: Peer, msg: list[Any]) -> None:
        """A peer sends an item, or says that it has it."""
        node = self.node
        _, no, index, attempt, out = msg
        there = None
        given = None
        if is_elsewhere(out):
            there = out[0], attempt
            out = Elsewhere(peer.life, attempt, out[1])
        else:
            given = node.objects.taken(peer, out)
            out = node.objects.keep(out)
        wanted = False
        if attempt:
            task = node.tasks.open.get(no)
            if task is not None and task.attempt == attempt:
                wanted = self.of_task(task, index, out)
        else:
            wanted = node.calls.item(no, index, out)
        if there is not None and not wanted:
            node.locations.decline(peer, [there])
        node.objects.settle_taken(given)

    def of_task(self, task: Task, index: int, out: Any) -> bool:
        """One item of a task of this node's own. Returns whether it is wanted."""
        task.received += 1
        lineage = self.node.lineage
        wanted = True
        if type(out) is Elsewhere and not (task.first_item and 0 <= index < _MOST):
            wanted = False  # such an item has no number
        elif task.rerun:
            wanted = lineage.item_again(task, index, out)
        else:
            stream = task.stream() if task.stream is not None else None
            number = task.first_item + index
            if task.first_item and number in self.node.objects._exported:
                wanted = lineage.item_again(task, index, out)
            elif type(out) is Elsewhere:
                wanted = stream is not None and stream._expects(index)
                if stream is not None and wanted:
                    stream._item(index, lineage.item(task, number, out, stream._made), out.size)
            elif stream is not None:
                stream._item(index, out)
        if task.ending is not None:
            self.task_ended(task)
        return wanted

    def task_ended(self, task: Task) -> None:
        """The final answer of a generator has come; large items come in pieces, and may be behind it."""
        if task.ending is None or task.received < task.ending[2]:
            return
        assert task.place is not None
        self.node.tasks.sent.drop(task.place.life, task.no)
        state, out, _ = task.ending
        self.node.tasks.answered(task, state, out)

    def of_call(self, call: ActorCall, index: int, out: Any) -> bool:
        """One item of an actor's generator, called by this node. Returns whether it is wanted."""
        node = self.node
        stream: Stream[Any] | None = call.stream() if call.stream is not None else None
        if stream is None:
            return False
        if type(out) is not Elsewhere:
            stream._item(index, out)
        else:
            number = first_of(call.credit) + index
            if not FIRST_ITEM <= number < FIRST_ITEM << 1 or not 0 <= index < _MOST or not stream._expects(index):
                return False
            ref = node.objects.made(number)
            ref._made = stream._made
            node.objects.settled(ref, READY, out)
            node.lineage.machine.note([number], "actor")
            stream._item(index, ref, out.size)
        return True

    # -- credit --------------------------------------------------------------------------------------------------------

    def taken(self, number: int, items: int) -> None:
        """The consumer of a stream took items."""
        node = self.node
        task = node.tasks.open.get(number)
        if task is not None:
            task.consumed += items
            if task.place is not None:
                task.place.send((m.CREDIT, task.no, items))
            elif task.started:
                node.execution.add_credit(task, items)
            return
        call = node.calls.open.get(number)
        if call is not None and call.route is not None:
            if call.sent and call.route.peer is not None:
                call.route.peer.send((m.CREDIT, number, items))
            elif call.route.cell is not None:
                node.hosting.add_credit(call.route.cell, call, items)
