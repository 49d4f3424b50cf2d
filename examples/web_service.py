"""An aiohttp service that hands its CPU work to tasks and shares an actor between its handlers.

    python examples/web_service.py --port 8080        # then: curl localhost:8080/primes/100000
    python examples/web_service.py --check            # drives itself with a client and prints what came back

The application's own process and loop are the node: no other service is needed. On SIGTERM every request that was
accepted is answered. `/livez` and `/readyz` tell an orchestrator how it fares.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence

import aiohttp
from aiohttp import web

import actorfw
import actorfw.aiohttp


@actorfw.remote
def primes_below(limit: int) -> int:
    """How many primes there are below `limit`. It computes, so it runs in a worker process, not on the loop."""
    sieve = bytearray([1]) * max(limit, 2)
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve[:limit])


class Visits(actorfw.Actor):
    """Counts the requests for each path."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @actorfw.method
    async def seen(self, path: str) -> None:
        """One more request for this path."""
        self.counts[path] = self.counts.get(path, 0) + 1

    async def all(self) -> dict[str, int]:
        """The counts so far."""
        return self.counts


VISITS = web.AppKey("visits", Visits)


async def actors(app: web.Application) -> AsyncIterator[None]:
    """They live as long as the application."""
    app[VISITS] = Visits.remote()
    yield


async def primes(request: web.Request) -> web.Response:
    limit = int(request.match_info["limit"])
    if limit > 10_000_000:
        raise web.HTTPBadRequest(text="at most 10000000")
    request.app[VISITS].seen.tell("primes")  # one way: the request does not wait for it
    # If the client goes away and the handler is cancelled, so is the task.
    return web.json_response({"limit": limit, "primes": await primes_below.remote(limit)})


async def visits(request: web.Request) -> web.Response:
    return web.json_response(await request.app[VISITS].all())


def application() -> web.Application:
    """The service, ready to be run by aiohttp or a test."""
    app = web.Application()
    actorfw.aiohttp.setup(app, request_timeout=30)
    app.cleanup_ctx.append(actors)
    app.router.add_get("/primes/{limit:[0-9]+}", primes)
    app.router.add_get("/visits", visits)
    return app


async def check() -> None:
    """Serve on a free port and ask for a few things."""
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]

        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:

            async def ask(path: str) -> dict[str, int]:
                async with session.get(path) as response:
                    response.raise_for_status()
                    answer: dict[str, int] = await response.json()
                    return answer

            answers = await asyncio.gather(*[ask(f"/primes/{10**power}") for power in range(1, 7)])
            for answer in answers:
                print(f"{answer['primes']} primes below {answer['limit']}")
            print(f"visits: {await ask('/visits')}")
            print(f"ready: {(await ask('/readyz'))['ready']}")
    finally:
        await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--check", action="store_true", help="start, ask, print, stop")
    options = parser.parse_args(argv)
    if options.check:
        actorfw.run(check())
    else:
        web.run_app(application(), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
