"""`Environments`: what this node does so that tasks and actors run in the environment that they ask for.

A worker process has one environment from its first task to its end. It is made for it, and takes messages at once;
they wait here until its packages have come and it has been told where they are. Code that runs in the node's own
process can have modules only: each name means one thing there, for as long as the process lives.

Leaves to others: which worker runs what (`runtime.pool`), how packages come here (`runtime.packages`), what is asked
for and inherited (`runtime.runtimeenv`), and what a worker does with it (`runtime.worker.surroundings`).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from actorfw.runtime.packages import Packages
from actorfw.runtime.pool import Worker
from actorfw.runtime.refs import Reply
from actorfw.runtime.runtimeenv import Resolver
from actorfw.values.environment import Environment
from actorfw.values.errors import ActorFwError, SerializationError, UnschedulableError
from actorfw.wire import messages as m
from actorfw.wire.failures import pack_error

if TYPE_CHECKING:
    from actorfw.io.packages import OwnFolder
    from actorfw.runtime.channel import WorkerProcess
    from actorfw.runtime.definitions import Recipe
    from actorfw.runtime.execution import Execution
    from actorfw.runtime.node import Node
    from actorfw.runtime.peers import Peer

__all__ = ["Environments", "SurroundedWorker"]

logger = logging.getLogger("actorfw.worker")

_AVOIDED: Final = 2.0  # seconds for which work goes elsewhere after its environment could not be made here


class SurroundedWorker(Worker):
    """A worker process with an environment of its own.

    Attributes:
        packages: hashes of those that it uses.
        folder: the private copy of its working_dir.
    """

    __slots__ = ("folder", "packages", "waiting")

    def __init__(self, process: WorkerProcess, environment: Environment) -> None:
        super().__init__(process)
        self.environment = environment
        self.waiting: list[tuple[Any, ...]] | None = []  # messages, until it has what it needs
        self.packages: list[bytes] = []
        self.folder: OwnFolder | None = None

    def send(self, msg: tuple[Any, ...]) -> None:
        if self.waiting is None:
            self.process.send(msg)
        else:
            self.waiting.append(msg)

    def begin(self, msg: tuple[Any, ...]) -> None:
        """Its environment is there: tell it so, and then all that waits."""
        waiting, self.waiting = self.waiting or [], None
        for one in (msg, *waiting):
            self.process.send(one)


class Environments:
    """The environments of one node's workers, and of its own process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.packages = Packages(node)
        self.resolver = Resolver(self.packages.files, node.config.package_limit, node.env.time)
        self._setting_up: set[asyncio.Task[None]] = set()
        self._workers: set[SurroundedWorker] = set()
        self._avoided: dict[tuple[bytes, bool], float] = {}  # until when, by its key and whether for a worker process
        self._submitted: Environment | None = None  # the last one
        node.asks.verbs["have_packages"] = self._on_have_packages
        self._importable: dict[bytes, str] = {}  # in this process: where, by the hash of the package

    # -- worker processes ----------------------------------------------------------------------------------------------

    def worker(self, process: WorkerProcess, environment: Environment, source: bytes) -> Worker:
        """What a new worker process is, that is to have this environment; `source` is a life that knows it."""
        worker = SurroundedWorker(process, environment)
        self._workers.add(worker)
        self._start(self._set_up(worker, environment, source))
        return worker

    def _start(self, coroutine: Any) -> None:
        task = self.node.env.create_task(coroutine, "actorfw environment")
        self._setting_up.add(task)
        task.add_done_callback(self._setting_up.discard)

    async def _set_up(self, worker: SurroundedWorker, environment: Environment, source: bytes) -> None:
        packages = self.packages
        try:
            entries: list[str] = []
            for digest in environment.py_modules:
                held = await packages.get(digest, source)
                worker.packages.append(digest)
                entries.append(await packages.do(held.tree))
            if environment.working_dir:
                held = await packages.get(environment.working_dir, source)
                worker.packages.append(environment.working_dir)
                folder = worker.folder = await packages.do(packages.files().own_folder)
                await packages.do(lambda: held.copy(folder.path))
        except Exception as error:  # whatever it is, those who wait for the worker must hear of it
            self._failed(worker, environment, error)
            return
        if worker not in self._workers:  # it ended meanwhile
            self._let_go(worker)
            return
        cwd = worker.folder.path if worker.folder is not None else ""
        worker.begin((m.ENVIRONMENT, environment.to_wire(), cwd, entries))

    def _failed(self, worker: SurroundedWorker, environment: Environment, error: Exception) -> None:
        node = self.node
        known = worker in self._workers
        self._workers.discard(worker)
        self._let_go(worker)
        if not known or node.closing:
            return
        why = self._why(environment, error, in_worker=True)
        logger.error("%s", why)
        running, worker.running = worker.running, {}
        worker.shape = None  # nothing more is given to it
        cell, worker.cell = worker.cell, None
        worker.process.kill("its environment could not be made")
        for exe in running.values():
            exe.worker = None
            node.execution.broke(exe, UnschedulableError(str(why), ran=False))
        if cell is not None:
            cell.on_created("failed", pack_error(node.codec, why, where=node.name, infrastructure=True))

    def _why(self, environment: Environment, error: Exception, *, in_worker: bool) -> UnschedulableError:
        self._avoided[(environment.key, in_worker)] = self.node.env.time() + _AVOIDED
        said = error.strerror or error if isinstance(error, OSError) else error
        if not isinstance(error, ActorFwError | OSError):
            logger.error("an environment could not be made", exc_info=error)
        return UnschedulableError(f"the runtime_env can't be had on node {self.node.name}: {said}", ran=False)

    def ended(self, worker: Worker) -> None:
        """A worker process is gone."""
        if isinstance(worker, SurroundedWorker) and worker in self._workers:
            self._workers.discard(worker)
            if worker.waiting is None:  # else whoever sets it up lets go
                self._let_go(worker)

    def _let_go(self, worker: SurroundedWorker) -> None:
        for digest in worker.packages:
            self.packages.release(digest)
        worker.packages.clear()
        folder, worker.folder = worker.folder, None
        if folder is not None:
            self._start(self.packages.do(folder.remove))

    # -- this process --------------------------------------------------------------------------------------------------

    def turned_away(self, exe: Execution) -> bool | None:
        """Whether a task goes elsewhere, since its environment could not be made here a moment ago.

        None: it does not. True: another node's, it has been sent back. False: it is this node's own.
        """
        environment = exe.recipe.environment
        if not self._avoided or environment is None:
            return None
        key = (environment.key, exe.recipe.executor == "process")
        until = self._avoided.get(key)
        if until is None:
            return None
        if until < self.node.env.time() or len(self.node.members.facts) < 2:
            del self._avoided[key]
            return None
        if exe.peer is None:
            self.node.env.call_later(_AVOIDED, self.node.tasks.pump_soon)
            return False
        self.node.execution.bounce(exe)
        return True

    def here(self, exe: Execution, then: Callable[[], object]) -> bool:
        """Whether a task that runs in this process finds its modules. If not yet: `then()` when it does."""
        environment = exe.recipe.environment
        if environment is None or all(digest in self._importable for digest in environment.py_modules):
            return True
        source = exe.peer.life if exe.peer is not None else self.node.life

        def ready(error: UnschedulableError | None) -> None:
            if exe.cancelled or exe.serial not in self.node.execution.by_serial:
                return
            if error is None:
                try:
                    then()
                except Exception as failure:  # whatever it is, its submitter must hear of it
                    self.node.execution.failed_to_start(exe, failure)
            else:
                self.node.execution.broke(exe, error)

        self.when_here(environment, source, ready)
        return False

    def when_here(
        self, environment: Environment, source: bytes, then: Callable[[UnschedulableError | None], object]
    ) -> None:
        """Have the modules of an environment importable in this process; `then` hears why that can't be, or None."""
        if all(digest in self._importable for digest in environment.py_modules):
            then(None)
        else:
            self._start(self._make_importable(environment, source, then))

    async def _make_importable(
        self, environment: Environment, source: bytes, then: Callable[[UnschedulableError | None], object]
    ) -> None:
        packages = self.packages
        try:
            for digest in environment.py_modules:
                if digest in self._importable:
                    continue
                held = await packages.get(digest, source)  # in use for as long as this node lives
                try:
                    folder = await packages.do(held.tree)
                    await packages.do(lambda folder=folder: _check_names(folder))  # type: ignore[misc]
                except BaseException:
                    packages.release(digest)
                    raise
                if digest in self._importable:
                    packages.release(digest)  # somebody else waited for the same
                    continue
                self._importable[digest] = folder
                if folder:
                    sys.path.append(folder)
                    importlib.invalidate_caches()
        except Exception as error:  # whatever it is, those who wait must hear of it
            if not self.node.closing:
                then(self._why(environment, error, in_worker=False))
            return
        if not self.node.closing:
            then(None)

    # -- submitting ----------------------------------------------------------------------------------------------------

    def of(self, definition: Any, parent: Environment | None) -> Environment | None:
        """The environment of what code of this process submits now. Any thread.

        Raises:
            UsageError: something in its runtime_env is missing, can't be read, or is too large.
        """
        found = self.resolver.of(definition.runtime_env, parent, definition.executor)
        if found is not None and found is not self._submitted:
            self._submitted = found
            self.node.post(self.packages.keep, found)
        return found

    def submitted(self, environment: Environment) -> None:
        """A worker has submitted something with this environment."""
        self.packages.keep(environment)

    def expected(self, definition: bytes, source: bytes) -> None:
        """This node may have to make an actor of this definition when others can't be asked: have its packages."""
        try:
            environment = self.node.recipe(definition).environment
        except (SerializationError, ValueError, TypeError):
            return  # it came damaged, or is none: nothing can be made of it either way
        if environment is not None and environment.packages:
            self._start(self._expect(environment, source))

    async def _expect(self, environment: Environment, source: bytes) -> None:
        for digest in environment.packages:
            try:
                await self.packages.get(digest, source)
            except ActorFwError as error:
                logger.warning("a package of a detached actor is not kept on node %s: %s", self.node.name, error)
                continue
            await self.packages.keep_one(digest)
            self.packages.release(digest)

    async def hand_over(self, heir: bytes, recipes: Iterable[Recipe], until: float) -> None:
        """This node leaves: wait until its heir has what these are made of, which it fetches from here."""
        digests = {digest for recipe in recipes if recipe.environment for digest in recipe.environment.packages}
        peer = self.node.peers.by_life.get(heir)
        if not digests or peer is None:
            return
        try:
            async with asyncio.timeout(max(0.0, until - self.node.env.time())):
                await self.node.asks.ask(peer, "have_packages", sorted(digests))
        except (ActorFwError, TimeoutError) as error:
            logger.warning(
                "the heir of node %s may lack packages of its actors: %s", self.node.name, error or "no time"
            )

    def _on_have_packages(self, peer: Peer, payload: Any) -> Reply[None]:
        """A node leaves, and this one is its heir."""
        reply: Reply[None] = Reply(self.node)
        self._start(self._have(Environment(py_modules=tuple(map(bytes, payload))), peer.life, reply))
        return reply

    async def _have(self, environment: Environment, source: bytes, reply: Reply[None]) -> None:
        await self._expect(environment, source)
        reply._settle(None)

    async def close(self) -> None:
        """The node closes, and its workers are gone."""
        for worker in list(self._workers):
            self._workers.discard(worker)
            if worker.waiting is None:
                self._let_go(worker)
        await self.packages.stop()
        while self._setting_up:
            await asyncio.gather(*self._setting_up, return_exceptions=True)
        self.packages.close()
        for folder in self._importable.values():
            if folder in sys.path:
                sys.path.remove(folder)
        self._importable.clear()
        self.resolver.close()


def _check_names(folder: str) -> None:
    """See that modules unpacked here are not other ones than those that this process would import by their names.

    Raises:
        UnschedulableError: one is.
    """
    from importlib.util import find_spec

    from actorfw.io.packing import module_name, same_content

    for entry in sorted(os.listdir(folder)) if folder else ():
        name = module_name(entry)
        if not name.isidentifier():
            continue  # what a wheel says about itself
        try:
            found = find_spec(name)
        except ValueError:  # it is imported, from nowhere
            raise UnschedulableError(_another(name, "made by the program itself"), ran=False) from None
        if found is None:
            continue
        places = list(found.submodule_search_locations or ()) or [found.origin or ""]
        ours = os.path.join(folder, entry)
        if not any(place and os.path.exists(place) and same_content(place, ours) for place in places):
            raise UnschedulableError(_another(name, places[0]), ran=False)


def _another(name: str, place: str) -> str:
    return (
        f"its process has another module {name} ({place}), and a name means one thing in it: use executor='process', or"
        " restart the node"
    )
