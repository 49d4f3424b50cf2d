"""actorfw inside an aiohttp application: `setup(app)` makes the application's own process and loop a peer.

The node begins and ends with the application, `app[NODE]` is it, `/livez` and `/readyz` say how it fares, and what a
request brings along, its deadline and its trace, goes on into what its handler calls.
"""

from actorfw.aiohttp.lifecycle import NODE, setup
from actorfw.aiohttp.requests import middleware

__all__ = ["NODE", "middleware", "setup"]
