"""`Grouped`: what is the same in all cells of whose calls several may run: a mailbox for each concurrency group, and
whoever waits long in one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from actorfw.runtime import heldup
from actorfw.runtime.cells import ENDED, Cell
from actorfw.runtime.groups import Groups
from actorfw.runtime.heldup import HELD_UP, SUSPECT
from actorfw.runtime.routes import ActorCall

if TYPE_CHECKING:
    from actorfw.runtime.cells import Step

__all__ = ["Grouped"]


class Grouped(Cell):
    """A cell with a mailbox for each concurrency group. Where methods run is the subclass's."""

    __slots__ = ()

    _groups: Groups  # in the slots of the subclasses, since some have another base with slots

    @property
    def depth(self) -> int:
        return super().depth + len(self._groups)

    def drain(self) -> list[ActorCall | Step]:
        return [*super().drain(), *self._groups.drain()]

    def take_unstarted(self) -> list[ActorCall]:
        self.stop_withholding()
        return [*self._groups.take_out(ActorCall), *super().take_unstarted()]

    def enqueue(self, call: ActorCall) -> None:
        group = self._groups.of(call.method)
        self._groups.add(group, call)
        self._start_more(group)

    def put_back(self, calls: Iterable[ActorCall]) -> None:
        self._groups.put_back(calls)

    def wake(self) -> None:
        for group in self._groups:
            self._start_more(group)

    def _start_more(self, group: str) -> None:
        """Start what there is room for."""
        raise NotImplementedError

    # -- calls that hold others up -------------------------------------------------------------------------------------

    def watch(self, group: str) -> None:
        """Somebody may have to wait in this group."""
        looks: dict[str, Any] | None = self._watch
        if looks is None:
            looks = self._watch = {}
        if group not in looks:
            head = self.head(group)
            if head is not None:
                env = self.node.env
                looks[group] = env.call_later(SUSPECT, self._look, group, head, env.time())

    def head(self, group: str) -> Any:
        """What has waited longest in a group, or None."""
        return self._groups.head(group)

    def _look(self, group: str, before: Any, since: float) -> None:
        looks: dict[str, Any] | None = self._watch
        if looks is None or self.state == ENDED:
            return
        head = self.head(group)
        if head is None:
            del looks[group]
            return
        env = self.node.env
        if head is not before:
            since = env.time()
        else:
            if env.time() - since >= HELD_UP - SUSPECT / 2:
                self.held_up(group, head)
            self.node.deadlocks.suspect(self)
        looks[group] = env.call_later(SUSPECT, self._look, group, head, since)

    def held_up(self, group: str, head: Any) -> None:
        """The head of a group has waited for long: find out who holds it up, and `tell_held_up`."""
        raise NotImplementedError

    def tell_held_up(self, call: ActorCall, where: str, waiting: int) -> None:
        """Say once in the log that this call holds so many others up."""
        if call is not self._told:
            self._told = call
            heldup.say(self.title, waiting, call.method, where)

    def finished(self, reason: str, out: Any = None) -> None:
        looks, self._watch = self._watch, None
        for timer in (looks or {}).values():
            timer.cancel()
        super().finished(reason, out)
