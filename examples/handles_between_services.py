"""Two services, each its own process and node, pass actor handles to each other.

    python examples/handles_between_services.py --orders 8

The stock service keeps a named actor, `Stock`. The order service joins the cluster, finds that actor by its name, and
gives it the handle of an actor of its own, `Desk`; the stock tells the desk when something runs low. A handle works
wherever it is: neither service knows where the other's actor lives, nor opens a connection.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import actorfw


class Desk(actorfw.Actor):
    """The order service's actor: hears from the stock."""

    def __init__(self) -> None:
        self.low: list[str] = []

    @actorfw.method
    async def runs_low(self, item: str, left: int) -> None:
        """The stock tells that little is left of an item."""
        self.low.append(f"{item} ({left} left)")

    async def heard(self) -> list[str]:
        """What the stock has told so far."""
        return self.low


class Stock(actorfw.Actor):
    """The stock service's actor: what there is, and whom to tell when it runs low."""

    def __init__(self, items: dict[str, int], low: int) -> None:
        self.items = items
        self.low = low

    async def reserve(self, item: str, count: int, desk: Desk) -> bool:
        """Take `count` of an item, if there are as many."""
        left = self.items.get(item, 0) - count
        if left < 0:
            return False
        self.items[item] = left
        if left <= self.low:
            # A tell: were this awaited, stock and desk could end up waiting for each other.
            desk.runs_low.tell(item, left)
        return True

    async def left(self) -> dict[str, int]:
        """What there is."""
        return self.items


async def order_service(seed: str, orders: int) -> None:
    """The second process: joins the first by its address."""
    async with actorfw.init(seeds=[seed], name="orders", num_cpus=0):
        stock = await actorfw.get_actor("stock", Stock)
        desk = Desk.remote()
        accepted = [await stock.reserve("bolt", 3, desk) for _ in range(orders)]
        print(f"orders: {accepted.count(True)} accepted, {accepted.count(False)} refused")
        # What the stock told the desk was sent before its answers, on the same way: it is there.
        print(f"orders: heard {', '.join(await desk.heard())}")


async def stock_service(orders: int) -> None:
    """The first process: founds the cluster and starts the second."""
    async with actorfw.init(name="stock", num_cpus=0) as node:
        stock = Stock.options(name="stock").remote({"bolt": 16, "nut": 5}, low=5)
        other = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--orders", str(orders), "--seed", node.address
        )
        if status := await other.wait():
            raise SystemExit(status)
        print(f"stock: {await stock.left()}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=8)
    parser.add_argument("--seed", metavar="HOST:PORT", help="be the order service and join the cluster here")
    options = parser.parse_args(argv)
    actorfw.run(order_service(options.seed, options.orders) if options.seed else stock_service(options.orders))


if __name__ == "__main__":
    main()
