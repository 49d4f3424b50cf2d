"""`init()` wherever Python runs: script, -c, stdin, -m, prompt, `python -m asyncio`, notebook, after a fork."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import actorfw

pytestmark = pytest.mark.real

WORK = textwrap.dedent("""
    import actorfw

    FACTOR = 2

    class Adder:
        def __init__(self, n):
            self.n = n

    @actorfw.remote
    def double(adder):
        return Adder(adder.n * FACTOR)

    @actorfw.remote
    class Counter:
        def __init__(self):
            self.n = 0
        async def add(self, k):
            self.n += k
            return self.n
""")

SCRIPT = WORK + textwrap.dedent("""
    with actorfw.init(num_cpus=1):
        counter = Counter.remote()
        print(actorfw.get(double.remote(Adder(21))).n, actorfw.get(counter.add(1)))
""")


def python(
    *arguments: str, given: str | None = None, cwd: Path | None = None, dev: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    flags = ["-X", "dev", "-W", "error"] if dev else []
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        input=given if given is not None else "",
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": _package_path(), **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )


def _package_path() -> str:
    spec = importlib.util.find_spec("actorfw")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent.parent)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_a_script(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    assert printed(python(str(script))) == "42 1\n"


def test_dash_c() -> None:
    assert printed(python("-c", SCRIPT)) == "42 1\n"


def test_stdin() -> None:
    assert printed(python("-", given=SCRIPT)) == "42 1\n"


def test_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("def three():\n    return 3\n")
    (package / "work.py").write_text(
        WORK
        + textwrap.dedent("""
            from package import helper

            @actorfw.remote
            def triple(x):
                return x * helper.three()

            with actorfw.init(num_cpus=1):
                print(actorfw.get(double.remote(Adder(21))).n, actorfw.get(triple.remote(2)))
        """)
    )
    assert printed(python("-m", "package.work", cwd=tmp_path)) == "42 6\n"


def test_without_shutdown_the_node_ends_with_the_script() -> None:
    program = WORK + "actorfw.init(num_cpus=1)\nprint(actorfw.get(double.remote(Adder(21))).n)\n"
    assert printed(python("-c", program)) == "42\n"


def test_with_work_pending_the_script_ends() -> None:
    program = textwrap.dedent("""
        import actorfw, asyncio, signal

        @actorfw.remote
        def blocks():
            signal.pause()

        @actorfw.remote
        async def waits():
            await asyncio.Event().wait()

        @actorfw.remote(executor="thread", num_cpus=0)
        def ready():
            return 1

        actorfw.init(num_cpus=1)
        refs = [blocks.remote(), waits.remote()]
        print(actorfw.get(ready.remote()))
    """)
    assert printed(python("-c", program)) == "1\n"


def test_an_exception_in_the_script_ends_it() -> None:
    done = python("-c", "import actorfw\nactorfw.init(num_cpus=0)\nraise SystemExit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_the_prompt_gives_the_running_node_again() -> None:
    lines = """
        import actorfw
        first = actorfw.init(num_cpus=0)
        actorfw.init(num_cpus=0) is first
        actorfw.init(num_cpus=1)
        actorfw.get(actorfw.put(5))
        actorfw.shutdown()
        second = actorfw.init(num_cpus=0)
        second is first
    """
    done = python("-i", "-q", given=textwrap.dedent(lines))
    assert done.stdout.split() == ["True", "5", "False"], done.stdout + done.stderr
    assert "UsageError: a node runs here already, of actorfw.init() at <stdin>" in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_python_dash_m_asyncio() -> None:
    lines = """
        import actorfw
        node = await actorfw.init(num_cpus=1)
        await actorfw.init(num_cpus=1) is node
        await actorfw.put(5)
        actorfw.get(actorfw.put(6))
        exec("def speak(): print('spoken')")
        await actorfw.remote(speak).remote()
        await actorfw.shutdown()
    """
    done = python("-m", "asyncio", given=textwrap.dedent(lines), dev=False)
    told = [line for line in (line.lstrip(">. ") for line in done.stdout.splitlines()) if line]
    assert told[:2] == ["True", "5"], done.stdout + done.stderr
    assert "BlockingCallError" in done.stderr
    assert any(line.startswith("(speak pid=") and line.endswith(" spoken") for line in told), done.stdout + done.stderr


def test_output_of_tasks_is_shown_in_a_script_and_logged_in_async_code() -> None:
    program = textwrap.dedent("""
        import actorfw, asyncio

        @actorfw.remote
        def speak():
            print("spoken")

        async def in_async_code():
            async with actorfw.init(num_cpus=1):
                await speak.remote()

        actorfw.run(in_async_code())
        print("--", flush=True)
        with actorfw.init(num_cpus=1):
            actorfw.get(speak.remote())
    """)
    before, after = printed(python("-c", program)).split("--\n")
    assert before == ""
    assert after.startswith("(speak pid=")
    assert after.endswith(") spoken\n")


def test_after_a_fork_the_child_has_no_node() -> None:
    program = textwrap.dedent("""
        import actorfw, asyncio, os, sys

        def forked(check):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    check()
                    status = 0
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0

        def child():
            try:
                actorfw.put(1)
            except actorfw.NotInitializedError:
                print("none")
            try:
                handle_or_ref.remote()
            except actorfw.NotInitializedError:
                print("none")
            with actorfw.init(num_cpus=1) as own:
                assert own.id != parent
                print(actorfw.get(handle_or_ref.remote()))

        @actorfw.remote
        def handle_or_ref():
            return 3

        with actorfw.init(num_cpus=1) as node:
            parent = node.id
            actorfw.get(handle_or_ref.remote())
            forked(child)
            print(actorfw.get(handle_or_ref.remote()))

        async def in_async_code():
            async with actorfw.init(num_cpus=0) as node:
                forked(lambda: print(actorfw.context() if False else "child"))
                assert await actorfw.put(4) == 4

        actorfw.run(in_async_code())
    """)
    done = python("-W", "ignore::DeprecationWarning", "-c", program)
    assert printed(done).split() == ["none", "none", "3", "3", "child"]


def test_a_forked_child_does_not_keep_its_dead_parents_node_alive() -> None:
    parent = textwrap.dedent("""
        import actorfw, os, sys, time
        with actorfw.init(num_cpus=0, seeds=[sys.argv[1]], name="parent"):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            print(child, flush=True)
            time.sleep(60)
    """)

    async def main() -> None:
        async with actorfw.init(num_cpus=0) as node:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore::DeprecationWarning", "-c", parent, node.address,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            child = int(await process.stdout.readline())
            events = actorfw.events()
            process.kill()
            try:
                async with asyncio.timeout(10):
                    async for event in events:
                        if isinstance(event, actorfw.NodeDied):
                            break
            finally:
                os.kill(child, signal.SIGKILL)
                await process.communicate()

    asyncio.run(main())


def test_a_fork_that_ends_like_any_process() -> None:
    program = textwrap.dedent("""
        import actorfw, os, sys
        context = actorfw.init(num_cpus=0)
        pid = os.fork()
        if pid == 0:
            actorfw.shutdown()
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), actorfw.get(actorfw.put(1)))
    """)
    assert printed(python("-W", "ignore::DeprecationWarning", "-c", program)) == "5 1\n"


def test_ctrl_c_while_a_script_looks_for_its_seed(free_port: int) -> None:
    program = textwrap.dedent(f"""
        import actorfw, os, signal, threading
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            actorfw.init(seeds="127.0.0.1:{free_port}", num_cpus=0)
        except KeyboardInterrupt:
            print([thread.name for thread in threading.enumerate() if thread.name == "actorfw"])
    """)
    assert printed(python("-c", program)) == "[]\n"


def test_a_socket_module_of_the_users_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "socket.py").write_text("raise RuntimeError('the wrong socket module')\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json module')\n")
    program = WORK + textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=1):
            print(actorfw.get([double.remote(Adder(n)) for n in range(3)])[2].n)
    """)
    script = tmp_path / "work.py"
    script.write_text(program)
    assert printed(python("-P", str(script), cwd=tmp_path)) == "4\n"


IPYTHON = importlib.util.find_spec("IPython") is not None and importlib.util.find_spec("ipykernel") is not None

# A loop that plays a notebook's: its cells run inside it, and may block.
KERNEL = textwrap.dedent("""
    import asyncio, sys, types, warnings
    loop = asyncio.new_event_loop()
    shell = types.SimpleNamespace(kernel=types.SimpleNamespace(io_loop=types.SimpleNamespace(asyncio_loop=loop)))
    sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)

    import actorfw

    @actorfw.remote
    def square(x):
        print("squared")
        return x * x

    @actorfw.remote
    async def blocks():
        return actorfw.get(actorfw.put(1))

    async def cells():
        context = actorfw.init(num_cpus=1)                      # up when it returns
        print(actorfw.get(square.remote(3)), await square.remote(4))
        assert actorfw.init(num_cpus=1) is context
        try:
            actorfw.init(num_cpus=2)
        except actorfw.UsageError as error:
            print("refused")
        try:
            await blocks.remote()                               # the node's own loop is nobody's notebook
        except actorfw.TaskError as error:
            print(type(error.__cause__).__name__)
        assert actorfw.shutdown() is None
        with actorfw.init(num_cpus=0):
            print(actorfw.get(actorfw.put(5)))
        async with actorfw.init(num_cpus=0):
            print(await actorfw.put(6))
        with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=0):
            print(actorfw.get(square.remote(7)))
        async with actorfw.LocalCluster(nodes=1, num_cpus=1, driver_cpus=0):
            print(await square.remote(8))

    loop.run_until_complete(cells())
    loop.close()
""")


def test_a_loop_that_is_a_notebooks() -> None:
    lines = [line for line in printed(python("-c", KERNEL, dev=False)).splitlines() if not line.endswith(" squared")]
    assert lines == ["9 16", "refused", "BlockingCallError", "5", "6", "49", "64"]


@pytest.mark.skipif(not IPYTHON, reason="needs ipykernel")
def test_a_notebook_kernel() -> None:
    program = textwrap.dedent("""
        from jupyter_client.manager import start_new_kernel

        CELLS = [
            "import actorfw",
            "first = actorfw.init(num_cpus=1)",
            "def helper(x): return x + 1",
            "@actorfw.remote\\ndef f(x): print('said'); return helper(x)",
            "print(actorfw.get(f.remote(1)))",
            "print(await f.remote(2))",
            "def helper(x): return x + 10",
            "print(actorfw.get(f.remote(1)))",
            "print(actorfw.init(num_cpus=1) is first)",
            "actorfw.shutdown()",
        ]
        manager, client = start_new_kernel()
        try:
            for cell in CELLS:
                client.execute_interactive(cell, timeout=30)
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    """)
    done = python("-c", program, dev=False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("(f pid=")]
    assert lines == ["2", "3", "11", "True"], done.stdout + done.stderr
