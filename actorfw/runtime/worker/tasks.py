"""Running tasks in a worker process: one after another on its main thread, each in a context of its own.

Responsible for: from a TASK message to its RESULT, whatever the user's code does on the way. Reading and sending are
the `Line`'s, the order of things the `Worker`'s.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.context import CallContext
from actorfw.runtime.definitions import ASYNC, DEF, GENERATOR, Recipe
from actorfw.runtime.exits import Interrupted
from actorfw.runtime.worker.answers import PACKING, PREPARING, RUNNING, Credit
from actorfw.values.errors import DeadlineExceededError, TaskCancelledError
from actorfw.values.ids import text_id
from actorfw.wire.messages import HANDED_BACK, TASK

if TYPE_CHECKING:
    from actorfw.runtime.worker.child import Worker

__all__ = ["Tasks"]

_DEVICES: Final = "CUDA_VISIBLE_DEVICES"


class Tasks:
    """The task side of one worker process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._line = worker.line
        self._marks = worker.marks
        self._outbox = worker.line.outbox
        self._interrupts = worker.interrupts
        self._answers = worker.answers
        self._known: dict[bytes, tuple[str, Callable[..., Any], str, str | None]] = {}
        self._cwd: str | None = None
        self._runner: asyncio.Runner | None = None
        self.credits: dict[int, Credit] = {}
        self._early: dict[int, int] = {}  # credit of generators that wait for their turn here
        self.current: list[Any] | None = None  # the TASK message that is running
        self._context: tuple[list[Any], CallContext] | None = None
        self.started = 0

    # -- arriving ------------------------------------------------------------------------------------------------------

    def accept(self, message: list[Any]) -> None:
        """A TASK with a deadline or with refs in its arguments has come; under the line's lock."""
        left = message[5]
        if left is not None:
            message[5] = monotonic() + left / 1000
        message[3] = self._worker.objects.keep(message[3])
        self._line.inbox.append(message)

    def hand_back(self) -> None:
        """Return the tasks that have not started. Any thread."""
        inbox = self._line.inbox
        numbers: list[int] = []
        for message in list(inbox):
            if message[0] == TASK and self._taken_out(message):
                numbers.append(message[1])
        if numbers:
            self._outbox.append((HANDED_BACK, numbers))

    def _taken_out(self, message: list[Any]) -> bool:
        try:
            self._line.inbox.remove(message)
        except ValueError:
            return False  # the main thread was faster
        for dep in message[4] or ():
            self._worker.objects.dep((dep[0], dep[1]))
        return True

    def cancel(self, no: int) -> None:
        """CANCEL names a task: drop it if it waits, else leave it to the interrupts. Under the line's lock."""
        for message in list(self._line.inbox):
            if message[0] == TASK and message[1] == no and self._taken_out(message):
                name = self._name_of(message)
                self._answers.failed(no, TaskCancelledError(f"task {name} was cancelled before it started", ran=False))
                return
        self._interrupts.cancel(no)
        credit = self.credits.get(no)
        if credit is not None and credit.wake is not None:
            credit.wake()

    def on_credit(self, no: int, items: int) -> None:
        """The consumer of a generator took items, perhaps of the attempt before. Under the line's lock."""
        credit = self.credits.get(no)
        if credit is not None:
            credit.add(items)
        else:
            self._early[no] = self._early.get(no, 0) + items

    def _credit(self, no: int, items_ahead: Any) -> Credit:
        with self._interrupts.shield, self._line.lock:
            credit = self.credits[no] = Credit(items_ahead)
            credit.taken(self._early.pop(no, 0))
        return credit

    def _forget_credit(self) -> None:
        """What came too late for a generator that has ended, or was interrupted before it began."""
        with self._line.lock:
            self.credits.clear()
            waiting = {message[1] for message in self._line.inbox if message[0] == TASK}
            self._early = {no: items for no, items in self._early.items() if no in waiting}

    def _name_of(self, message: list[Any]) -> str:
        known = self._known.get(message[2])
        if known is not None:
            return known[2]
        try:
            return Recipe.from_blob(self._worker.codes.get(message[2])).name
        except Exception:  # a name for a message, of code that can't be read
            return text_id(message[9])

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, message: list[Any]) -> None:
        """Run one task to its end; its RESULT is in the outbox then. Main thread."""
        _, no, hashed, args, deps, deadline, _attempt, credit, num_returns, _origin, gpus = message
        interrupts = self._interrupts
        worker = self._worker
        self.started += 1
        # The answers to those before it may still be here, so a sudden end would leave in doubt which one was last.
        if self._marks is not None:
            self._marks[0] = no
        elif self._outbox:
            self._line.flush()
        self.current = message
        name = "task"
        stage = PREPARING
        try:
            try:
                held = self._answers.ahead(deps)
                kind, fn, name, cwd = self._known.get(hashed) or self._load(hashed)
                worker.label = name
                if deadline is not None and deadline <= monotonic():
                    raise DeadlineExceededError(f"task {name} was due before it could start", ran=False)
                if type(args) is list and not (args and type(args[0]) is bytes):
                    kwargs: dict[str, Any] = {}
                else:
                    args, kwargs = self._answers.arguments(args, held)
                held = None  # else they would count as kept when the task has ended
                if cwd is not None and cwd != self._cwd:
                    self._change_folder(cwd)
                if gpus:
                    os.environ[_DEVICES] = ",".join(map(str, gpus))
                stage = RUNNING
                interrupts.begin(no)
                if kind == DEF:
                    value = Context().run(fn, *args, **kwargs)
                elif kind == ASYNC:
                    value = self._run_coroutine(no, fn(*args, **kwargs))
                elif kind == GENERATOR:
                    value = self._run_generator(no, fn(*args, **kwargs), credit)
                else:
                    value = self._run_async_generator(no, fn(*args, **kwargs), credit)
                interrupts.running = 0
                stage = PACKING
                if worker.stdout.unfinished or worker.stderr.unfinished:
                    worker.finish_lines()
                self._answers.value(no, name, value, num_returns)
            except BaseException as error:  # user code may raise anything, and gets it back as an answer
                interrupts.running = 0
                self._ended_with(no, name, error, stage)
        except Interrupted as error:  # it came while another exception was on its way
            self._ended_with(no, name, error, stage)
        self.current = None
        self._context = None
        if self._early or self.credits:
            self._forget_credit()
        if interrupts.cancelled:
            interrupts.cancelled.discard(no)
        if gpus:
            worker.surroundings.restore(_DEVICES)
        if worker.awaited:
            worker.awaits_end()
        worker.label = ""

    def _ended_with(self, no: int, name: str, error: BaseException, stage: int) -> None:
        self._worker.finish_lines()
        deadline = None if self.current is None else self.current[5]
        ours = isinstance(error, (Interrupted, DeadlineExceededError))
        self._answers.raised(no, f"task {name}" if ours else name, error, stage, deadline)

    def _load(self, hashed: bytes) -> tuple[str, Callable[..., Any], str, str | None]:
        recipe = Recipe.from_blob(self._worker.codes.get(hashed))
        fn, cwd = self.load_code(recipe.code)
        known = self._known[hashed] = (recipe.kind, fn, recipe.name, cwd)
        return known

    def load_code(self, code: bytes) -> tuple[Any, str | None]:
        """A function or class, and the folder that its submitter worked in, if that is here too."""
        codes = self._worker.codes
        cwd = codes.cwd_of(code)
        if cwd is not None and (self._worker.surroundings.keeps_folder or not os.path.isdir(cwd)):
            cwd = None
        # First the folder, then the code: importing it may read files there.
        if cwd is not None and cwd != self._cwd:
            self._change_folder(cwd)
        return codes.load(code), cwd

    def _change_folder(self, cwd: str) -> None:
        try:
            os.chdir(cwd)
            self._cwd = cwd
        except OSError:
            pass  # it went away, or may not be entered: the code runs where we are

    def call_context(self) -> CallContext | None:
        """What is known about the running task; made when somebody asks."""
        message = self.current
        if message is None:
            return None
        if self._context is not None and self._context[0] is message:
            return self._context[1]
        made = CallContext(
            node_id=self._worker.node_id,
            call=(message[9][0], message[9][1]),
            attempt=message[6],
            deadline=message[5],
            gpus=tuple(message[10] or ()),
            number=message[1],
            trace=tuple(message[9][2:]) or None,
        )
        self._context = (message, made)
        return made

    # -- coroutines and generators -------------------------------------------------------------------------------------

    def _run_coroutine(self, no: int, coroutine: Any) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        runner = self._runner
        interrupts = self._interrupts
        loop = runner.get_loop()
        ours = False

        async def run() -> Any:
            nonlocal ours
            task = asyncio.current_task()
            assert task is not None

            def end() -> None:
                nonlocal ours
                if not ours:
                    ours = True
                    loop.call_soon_threadsafe(task.cancel)

            interrupts.end_on_loop = end
            if no in interrupts.cancelled:
                end()
            return await coroutine

        try:
            return runner.run(run(), context=Context())
        except asyncio.CancelledError:
            if ours:
                raise Interrupted from None
            raise
        finally:
            interrupts.end_on_loop = None
            left = asyncio.all_tasks(loop)
            if left:  # what it started and did not wait for ends with it, as under asyncio.run()
                for task in left:
                    task.cancel()
                runner.run(_gathered(left))

    def _run_generator(self, no: int, items: Generator[Any, Any, Any], items_ahead: Any) -> int:
        credit = self._credit(no, items_ahead)
        context = Context()
        count = 0
        try:
            while not credit.over(count):
                if not credit.there():
                    self._wait_for_room(no, credit)
                if credit.closed:
                    break
                try:
                    item = context.run(next, items)
                except StopIteration:
                    break
                self._send_item(no, count, item, credit)
                count += 1
        finally:
            del self.credits[no]
            context.run(items.close)
        return count

    def _wait_for_room(self, no: int, credit: Credit) -> None:
        # A slow consumer must not keep a CPU busy with waiting for it.
        cancelled = self._interrupts.cancelled
        with self._interrupts.shield, self._worker.lending():
            self._line.wait(lambda: credit.there() or no in cancelled, None, reads=True)
        if no in cancelled:
            self._interrupts.check()

    def _send_item(self, no: int, index: int, item: Any, credit: Credit) -> None:
        with self._interrupts.shield:
            self._answers.item(no, index, item, credit)
            self._line.flush_if_due()

    def _run_async_generator(self, no: int, items: AsyncGenerator[Any, Any], items_ahead: Any) -> Any:
        async def run() -> int:
            loop = asyncio.get_running_loop()
            credit = self._credit(no, items_ahead)
            room = asyncio.Event()
            credit.wake = lambda: loop.call_soon_threadsafe(room.set)
            count = 0
            try:
                while not credit.over(count):
                    if not credit.there():
                        self._line.share()
                        self._line.flush()
                        with self._worker.lending():
                            while not credit.there():
                                room.clear()
                                if not credit.there():
                                    await room.wait()
                    if credit.closed:
                        break
                    try:
                        item = await items.__anext__()
                    except StopAsyncIteration:
                        break
                    self._send_item(no, count, item, credit)
                    count += 1
            finally:
                del self.credits[no]
                await items.aclose()
            return count

        return self._run_coroutine(no, run())


async def _gathered(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
