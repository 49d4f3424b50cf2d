"""Scrape many pages at once from a site that fails at times, with retries and back-off.

    python examples/scraper.py --pages 60

`async def` tasks run on a node's event loop: hundreds may wait for the network at the same time. The site is a local
aiohttp application that answers the first requests for some pages with "503 Service Unavailable"; the tasks' options
say which errors to try again, how often, and how long to wait first.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web

import actorfw


class SiteUnavailableError(Exception):
    """The site asked to come back later."""


@dataclass(frozen=True)
class Page:
    """What was found on one page."""

    title: str
    links: tuple[str, ...]


@actorfw.remote(max_retries=5, retry_exceptions=[SiteUnavailableError, aiohttp.ClientConnectionError], retry_delay=0.02)
async def fetch(url: str) -> Page:
    """Fetch and read one page."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        if response.status == 503:
            raise SiteUnavailableError(url)
        response.raise_for_status()
        text = await response.text()
    title = re.search(r"<title>(.*?)</title>", text)
    return Page(title[1] if title else "", tuple(re.findall(r'href="(.*?)"', text)))


class Site:
    """The site to scrape: page `n` fails `n % failures` times, then answers."""

    def __init__(self, pages: int, failures: int) -> None:
        self.pages = pages
        self.failures = failures
        self.requests: Counter[int] = Counter()

    async def page(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        self.requests[number] += 1
        if self.requests[number] <= number % self.failures:
            return web.Response(status=503, text="come back later")
        links = "".join(f'<a href="/page/{(number * k) % self.pages}">{k}</a>' for k in (2, 3))
        return web.Response(text=f"<title>Page {number}</title>{links}", content_type="text/html")

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str, None]:
        """Serve the site on a free port of this machine; yields its address."""
        app = web.Application()
        app.router.add_get("/page/{number}", self.page)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


async def run(pages: int, failures: int) -> None:
    site = Site(pages, failures)
    async with site.serve() as address, actorfw.init():
        found = await asyncio.gather(*[fetch.remote(f"{address}/page/{number}") for number in range(pages)])
    assert [page.title for page in found] == [f"Page {number}" for number in range(pages)]
    links = Counter(link for page in found for link in page.links)
    requests = site.requests.total()
    print(f"{len(found)} pages with {links.total()} links, {requests} requests of which {requests - pages} failed")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--failures", type=int, default=3, help="page n fails n %% FAILURES times; at most 6")
    options = parser.parse_args(argv)
    actorfw.run(run(options.pages, options.failures))


if __name__ == "__main__":
    main()
