"""`runtime_env` with real processes: a node that plays another machine, in another folder, with a cache of its own."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from tests.integration.shell import SECRET, environment

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

# Paths of the submitter's mean nothing on a machine of another name.
NODE = """
import sys
import actorfw.io.env
actorfw.io.env._host_id = lambda: "another machine"
from actorfw.cli import main
sys.exit(main(["start", "--seed", sys.argv[1], "--num-cpus", "2", "--label", "place=there"]))
"""

MODULE = """
import os, sys
import actorfw

VERSION = {version!r}

def look():
    return VERSION, __file__, os.getcwd(), os.environ.get("GREETING"), os.getpid()

async def look_on_loop():
    return VERSION, __file__

@actorfw.remote
def nested():
    return look()

def parent():
    return actorfw.get(nested.remote())

class Thing:
    def __init__(self, value):
        self.value = value
"""

THERE = actorfw.Labels({"place": "there"})


def _write(folder: Path, version: str, name: str = "afw_shipped") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(MODULE.format(version=version))
    return folder


def _import(folder: Path, name: str = "afw_shipped") -> ModuleType:
    """As a script finds the modules beside it: they travel by name."""
    sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("env")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache here"))
        patch.setattr(sys, "path", list(sys.path))
        yield root
    for name in [name for name in sys.modules if name.startswith("afw_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def shipped(root: Path) -> ModuleType:
    return _import(_write(root / "project", "one"))


def _start(root: Path, seed: str) -> subprocess.Popen[str]:
    (root / "elsewhere").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", NODE, seed],
        cwd=root / "elsewhere",
        env=environment(root, XDG_CACHE_HOME=str(root / "cache there")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(root: Path) -> AsyncIterator[actorfw.Node]:
    async with actorfw.init(num_cpus=2, secret=SECRET) as here:
        other = _start(root, here.address)
        try:
            await _joined()
            yield here
        finally:
            other.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(other.communicate, timeout=20)
    assert (other.returncode, out.count("\n"), err.count("\n")) == (0, 1, 1), err
    left = [name for cache in ("here", "there") for name in _names(root, cache)]
    assert not [name for name in left if not name.endswith((".package", ".tree"))]


async def _joined() -> actorfw.NodeRow:
    async with asyncio.timeout(30):
        while True:
            for row in await actorfw.nodes():
                if row.labels.get("place") == "there" and row.state == "up":
                    return row
            await asyncio.sleep(0.02)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def _cache(root: Path, which: str) -> Path:
    return root / f"cache {which}" / "actorfw" / "packages"


def _names(root: Path, which: str) -> list[str]:
    return os.listdir(_cache(root, which))


def _remote(fn: Any, env: Any = None, **options: Any) -> Any:
    options.setdefault("scheduling", THERE)
    return actorfw.remote(**options, **({} if env is None else {"runtime_env": env}))(fn)


async def test_what_was_never_seen_there_can_not_be_imported(node: actorfw.Node, shipped: ModuleType) -> None:
    with pytest.raises(actorfw.SerializationError, match="runtime_env"):
        await _remote(shipped.look, max_retries=0).remote()


async def test_a_working_dir_is_there_with_its_modules(node: actorfw.Node, shipped: ModuleType, root: Path) -> None:
    env = {"working_dir": root / "project", "env_vars": {"GREETING": "hello"}}
    look = _remote(shipped.look, env)
    version, file, cwd, greeting, pid = await look.remote()
    assert (version, greeting) == ("one", "hello")
    assert Path(cwd).is_relative_to(_cache(root, "there"))
    assert file == os.path.join(cwd, "afw_shipped.py")
    assert await look.remote() == (version, file, cwd, greeting, pid)

    def plain() -> tuple[str | None, str, int]:
        return os.environ.get("GREETING"), os.getcwd(), os.getpid()

    greeting, folder, other = await _remote(plain).remote()
    assert greeting is None
    assert folder == str(root / "elsewhere")
    assert other != pid
    assert await look.remote() == (version, file, cwd, "hello", pid)


async def test_arguments_and_results_find_their_classes(node: actorfw.Node, shipped: ModuleType, root: Path) -> None:
    def doubled(thing: Any) -> Any:
        return type(thing)(thing.value * 2)

    thing = await _remote(doubled, {"working_dir": root / "project"}).remote(shipped.Thing(4))
    assert type(thing) is shipped.Thing
    assert thing.value == 8


async def test_modules_for_what_runs_on_a_loop(node: actorfw.Node, root: Path) -> None:
    module = _import(_write(root / "loop one", "one", "afw_loop"), "afw_loop")
    version, file = await _remote(module.look_on_loop, {"py_modules": [module]}).remote()
    assert version == "one"
    assert Path(file).is_relative_to(_cache(root, "there"))
    here = actorfw.NodeAffinity(node.id)
    _, file = await _remote(module.look_on_loop, {"py_modules": [module]}, scheduling=here).remote()
    assert file == module.__file__  # it is imported in this process, and the same

    class Actor:
        async def version(self) -> str:
            return (await module.look_on_loop())[0]

    assert (
        await actorfw.remote(runtime_env={"py_modules": [module]}, scheduling=THERE)(Actor).remote().version() == "one"
    )

    changed = _import(_write(root / "loop two", "two", "afw_loop"), "afw_loop")
    with pytest.raises(actorfw.UnschedulableError, match="another module afw_loop") as caught:
        await _remote(changed.look_on_loop, {"py_modules": [changed]}, max_retries=0).remote()
    assert caught.value.ran is False
    version, _ = await _remote(changed.look_on_loop, {"py_modules": [changed]}, executor="process").remote()
    assert version == "two"


async def test_two_versions_side_by_side(node: actorfw.Node, root: Path) -> None:
    def version() -> tuple[str, int]:
        import afw_twice  # type: ignore[import-not-found]

        return afw_twice.VERSION, os.getpid()

    tasks = []
    for said in ("old", "new"):
        folder = _write(root / said, said, "afw_twice")
        tasks.append(_remote(version, {"py_modules": [folder / "afw_twice.py"]}, num_cpus=0))
    found = await asyncio.gather(*(task.remote() for _ in range(4) for task in tasks))
    assert [said for said, _ in found] == ["old", "new"] * 4
    assert {pid for said, pid in found if said == "old"}.isdisjoint(pid for said, pid in found if said == "new")


async def test_files_that_changed_are_packed_again(node: actorfw.Node, root: Path) -> None:
    folder = _write(root / "changing", "first", "afw_changing")

    def version() -> str:
        import afw_changing  # type: ignore[import-not-found]

        return str(afw_changing.VERSION)

    task = _remote(version, {"working_dir": folder})
    assert await task.remote() == "first"
    _write(folder, "second, and longer", "afw_changing")
    began = time.monotonic()
    async with asyncio.timeout(5):
        while await task.remote() != "second, and longer":
            await asyncio.sleep(0.05)
    assert time.monotonic() - began < 3


async def test_a_private_copy_goes_with_its_worker(node: actorfw.Node, root: Path) -> None:
    def write() -> tuple[str, int, bool]:
        there_before = os.path.exists("made by a task")
        Path("made by a task").write_text("x")
        os.chmod(".", 0o500)
        return os.getcwd(), os.getpid(), there_before

    task = _remote(write, {"working_dir": root / "project", "env_vars": {"COPY": "own"}})
    cwd, pid, before = await task.remote()
    assert not before
    assert await task.remote() == (cwd, pid, True)
    assert not (root / "project" / "made by a task").exists()
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: not os.path.exists(cwd))
    cwd_of_next, other, before = await task.remote()
    assert (cwd_of_next != cwd, other != pid, before) == (True, True, False)


async def test_what_is_submitted_inside_has_the_same(node: actorfw.Node, shipped: ModuleType, root: Path) -> None:
    env = {"working_dir": root / "project", "env_vars": {"GREETING": "inherited"}}
    version, file, _, greeting, _ = await _remote(shipped.parent, env).remote()
    assert (version, greeting) == ("one", "inherited")
    assert Path(file).name == "afw_shipped.py"
    assert not Path(file).is_relative_to(root / "project")


async def test_a_remote_function_takes_its_environment_along(
    node: actorfw.Node, root: Path, shipped: ModuleType
) -> None:
    inner = actorfw.remote(runtime_env={"working_dir": root / "project", "env_vars": {"GREETING": "taken"}})(
        lambda: __import__("afw_shipped").look()
    )

    def outer() -> Any:
        return actorfw.get(inner.remote())

    version, _, _, greeting, _ = await _remote(outer).remote()
    assert (version, greeting) == ("one", "taken")


async def test_keys_that_are_not_given_are_the_parents(node: actorfw.Node, root: Path) -> None:
    @actorfw.remote(runtime_env={"env_vars": {"B": "2"}, "working_dir": None})
    def inner() -> tuple[str | None, str | None]:
        return os.environ.get("A"), os.environ.get("B")

    def outer() -> Any:
        return actorfw.get(inner.remote())

    env = {"working_dir": root / "project", "env_vars": {"A": "1", "B": "1"}}
    assert await _remote(outer, env).remote() == ("1", "2")


async def test_an_actor_has_its_environment_after_a_restart_too(
    node: actorfw.Node, shipped: ModuleType, root: Path
) -> None:
    class Actor:
        def look(self) -> Any:
            import afw_shipped  # type: ignore[import-not-found]

            return afw_shipped.look()

    env = {"py_modules": [shipped], "env_vars": {"GREETING": "actor"}}
    options: Any = {"executor": "process", "max_restarts": -1, "max_task_retries": -1, "restart_backoff": 0.01}
    actor = actorfw.remote(runtime_env=env, scheduling=THERE, **options)(Actor).remote()
    version, file, _, greeting, pid = await actor.look()
    assert (version, greeting) == ("one", "actor")
    assert Path(file).is_relative_to(_cache(root, "there"))
    os.kill(pid, signal.SIGKILL)
    again = await actor.look()
    assert (again[1], again[3]) == (file, "actor")
    assert again[4] != pid


async def test_a_package_folder_a_wheel_and_an_archive(node: actorfw.Node, root: Path) -> None:
    import zipfile

    package = root / "pkg" / "afw_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from afw_package.inner import VALUE")
    (package / "inner.py").write_text("VALUE = 'package'")
    with zipfile.ZipFile(root / "afw_wheel-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("afw_wheel.py", "VALUE = 'wheel'")
        wheel.writestr("afw_wheel-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: afw-wheel\nVersion: 1\n")
    with zipfile.ZipFile(root / "dir.zip", "w") as archive:
        archive.writestr("afw_zipped.py", "VALUE = open('text').read()")
        archive.writestr("text", "archive")

    def values() -> Any:
        import importlib.metadata

        import afw_package  # type: ignore[import-not-found]
        import afw_wheel  # type: ignore[import-not-found]
        import afw_zipped  # type: ignore[import-not-found]

        return afw_package.VALUE, afw_wheel.VALUE, importlib.metadata.version("afw-wheel"), afw_zipped.VALUE

    env = {"py_modules": [package, root / "afw_wheel-1-py3-none-any.whl"], "working_dir": root / "dir.zip"}
    assert await _remote(values, env).remote() == ("package", "wheel", "1", "archive")


async def test_what_a_killed_node_leaves_is_removed_by_the_next(node: actorfw.Node, root: Path) -> None:
    program = textwrap.dedent(
        """
        import os, sys, actorfw
        with actorfw.init(num_cpus=1, secret=b"another secret, of its own"):
            f = actorfw.remote(runtime_env={"working_dir": sys.argv[1]})(os.getcwd)
            print(actorfw.get(f.remote()), flush=True)
            sys.stdin.read()
        """
    )
    cache = root / "cache killed"
    given = environment(root, XDG_CACHE_HOME=str(cache))

    def run() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(root / "project")],
            env=given,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    process, left = await asyncio.to_thread(run)
    process.kill()
    process.communicate()
    assert os.path.isdir(left)
    process, own = await asyncio.to_thread(run)
    assert os.path.isdir(own)
    assert not os.path.exists(left)
    await asyncio.to_thread(process.communicate, "")
    assert process.returncode == 0
    (name,) = os.listdir(cache / "actorfw" / "packages")
    assert name.endswith(".package")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ([], "must be a dict"),
        ({"pip": ["numpy"]}, "'pip' is no key.*env_vars, working_dir, py_modules"),
        ({"env_vars": {"A": 1}}, "strings to strings"),
        ({"env_vars": {"A=B": ""}}, "can't be set"),
        ({"env_vars": {"PYTHONPATH": "/x"}}, "read when an interpreter starts"),
        ({"env_vars": {"LD_PRELOAD": "/x"}}, "read when an interpreter starts"),
        ({"working_dir": 3}, "must be a path"),
        ({"working_dir": "s3://bucket"}, "path on this machine"),
        ({"py_modules": "afw"}, "must be a list"),
        ({"py_modules": [3]}, "must be a module, or the path"),
        ({"py_modules": [sys.modules["tests.integration.shell"]]}, "top-level package"),
        ({"py_modules": [sys]}, "of no file"),
    ],
)
async def test_what_can_be_no_environment_is_refused_at_once(env: Any, message: str) -> None:
    with pytest.raises(actorfw.UsageError, match=message):
        actorfw.remote(runtime_env=env)(os.getpid)
    with pytest.raises(actorfw.UsageError, match=message):
        actorfw.remote(os.getpid).options(runtime_env=env)


@pytest.mark.parametrize("env", [{"env_vars": {"A": "1"}}, {"working_dir": "."}])
async def test_what_many_share_can_not_have_it(env: Any) -> None:
    async def on_loop() -> None: ...

    class Actor:
        async def m(self) -> None: ...

    for target, options in ((on_loop, {}), (os.getpid, {"executor": "thread"}), (Actor, {})):
        with pytest.raises(actorfw.UsageError, match="executor='process', or only py_modules"):
            actorfw.remote(runtime_env=env, **options)(target)


async def test_what_is_missing_is_said_when_it_is_submitted(node: actorfw.Node, root: Path) -> None:
    with pytest.raises(actorfw.UsageError, match=r"working_dir is '.*nowhere', which can't be read: No such file"):
        _remote(os.getpid, {"working_dir": root / "nowhere"}).remote()
    with pytest.raises(actorfw.UsageError, match="json is imported in every worker already"):
        _remote(os.getpid, {"py_modules": [importlib.import_module("json")]}).remote()


async def test_values_of_variables_are_in_no_text(node: actorfw.Node, caplog: pytest.LogCaptureFixture) -> None:
    secret = "do not tell"
    task = actorfw.remote(runtime_env={"env_vars": {"TOKEN": secret}}, max_retries=0)(os.getpid)
    definition = task._definition
    ref = task.remote()
    environment = node.runtime.environments.of(definition, None)
    await ref
    assert environment is not None
    assert secret not in repr(definition.options) + repr(environment) + repr(task) + repr(definition.runtime_env)
    assert secret not in caplog.text
    with pytest.raises(actorfw.UsageError) as caught:
        task.options(runtime_env={"env_vars": {"TOKEN": secret, "N": 1}})
    assert secret not in str(caught.value)
