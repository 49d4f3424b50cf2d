"""The doors under the servers that people run: `web.run_app`, gunicorn's aiohttp workers, uvicorn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Server:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self.process = process
        self._session = session

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self._session.get(path, headers={"Connection": "close", **headers}) as answer:
            return answer.status, await answer.json(content_type=None) if answer.status == 200 else await answer.text()

    async def stop(self) -> tuple[int | None, str]:
        """SIGTERM: its exit status, and what it wrote."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        said, _ = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode, said.decode()


@asynccontextmanager
async def server(*command: str, tmp_path: Path) -> AsyncGenerator[Server]:
    """Runs `python -m COMMAND` on a free port, which takes the place of "PORT", until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent.parent))),
        "HOME": str(tmp_path),
        "ACTORFW_SECRET": os.urandom(32).hex(),
        "WEB_CLUSTER": f"web-{port}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *(part.replace("PORT", str(port)) for part in command),
        env=environment,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            found = Server(process, session)
            async with asyncio.timeout(30):
                while process.returncode is None:
                    try:
                        await found.get("/livez")
                        break
                    except aiohttp.ClientError:
                        await asyncio.sleep(0.02)
            yield found
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def is_one_cluster(served: Server, processes: int) -> None:
    """Each process is a member, and all of them know the same room."""
    async with asyncio.timeout(30):
        while True:
            answers = await asyncio.gather(*[served.get("/who") for _ in range(4 * processes)])
            assert {status for status, _ in answers} == {200}
            seen = {who["pid"] for _, who in answers}
            if len(seen) == processes and all(set(who["members"]) == seen for _, who in answers[-processes:]):
                break
    guests = max((who["guests"] for _, who in answers), key=len)
    assert set(guests) == seen


async def ends_well(served: Server, status: int = 0, quiet: bool = True) -> None:
    """What was accepted before SIGTERM is answered."""
    running = [asyncio.create_task(served.get(path)) for path in ("/slow?s=0.5", "/slow?s=0.5")]
    await asyncio.sleep(0.2)
    ended = asyncio.create_task(served.stop())
    for answer in running:
        assert (await answer)[0] == 200
    found, said = await ended
    assert found == status, said
    assert "Traceback" not in said
    if quiet:
        assert said == ""


async def test_run_app(tmp_path: Path) -> None:
    program = tmp_path / "serve.py"
    program.write_text("import sys, web_app\nweb_app.web.run_app(web_app.app, port=int(sys.argv[1]), print=None)\n")
    async with server("serve", "PORT", tmp_path=tmp_path) as served:
        await is_one_cluster(served, 1)
        assert (await served.get("/slow?s=0", traceparent=TRACEPARENT))[1] == [TRACEPARENT, False]
        assert await served.get("/working?s=0") == (200, True)
        await ends_well(served)


@pytest.mark.parametrize(
    ("worker", "what"),
    [("GunicornWebWorker", ["web_app:factory"]), ("GunicornUVLoopWebWorker", ["--preload", "web_app:app"])],
)
async def test_gunicorns_processes_form_one_cluster(worker: str, what: list[str], tmp_path: Path) -> None:
    options = ["-b", "127.0.0.1:PORT", "-k", f"aiohttp.{worker}", "-w", "2", "--log-level", "error"]
    async with server("gunicorn", *options, "--no-control-socket", *what, tmp_path=tmp_path) as served:
        await is_one_cluster(served, 2)
        assert await served.get("/working?s=0") == (200, True)
        await ends_well(served)


@pytest.mark.parametrize(("loop", "what"), [("uvloop", "starlette_app"), ("asyncio", "fastapi_app")])
async def test_uvicorn(loop: str, what: str, tmp_path: Path) -> None:
    options = ["--port", "PORT", "--loop", loop, "--log-level", "error", f"web_app:{what}"]
    async with server("uvicorn", *options, tmp_path=tmp_path) as served:
        await is_one_cluster(served, 1)
        traced = {"traceparent": TRACEPARENT, "X-Request-Timeout": "30"}
        status, answer = await served.get("/slow?s=0", **traced)
        assert (status, answer[:2]) == (200, [TRACEPARENT, True])
        assert await served.get("/slow?s=30", **{"X-Request-Timeout": "100m"}) == (504, "504: Gateway Timeout")
        if what == "starlette_app":
            assert answer[2] == 1  # the state of its own lifespan
            assert await served.get("/readyz") == (200, "mine")
            assert await served.get("/fails") == (503, "503: Service Unavailable")
            assert (await served.get("/sub/slow?s=0", **traced))[1][:2] == [TRACEPARENT, True]
        else:
            assert await served.get("/readyz") == (200, {"ready": True})
            assert (await served.get("/thread", **traced))[1] == [TRACEPARENT, True]
        await ends_well(served, status=-signal.SIGTERM)  # as uvicorn ends
