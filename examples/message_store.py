"""A message store: worker tasks put messages into an actor while the driver takes them out.

    python examples/message_store.py --producers 4 --messages 25

`take` waits until there is something to take. A call that waits would hold the actor and keep everybody from putting,
were it not marked `interleave=True`: such a call runs beside the others.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import actorfw


@dataclass(frozen=True)
class Message:
    """One message: who sent it and which of its messages it is."""

    producer: int
    number: int


class MessageStore(actorfw.Actor):
    """Keeps messages in the order in which they came."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()

    async def put(self, message: Message) -> None:
        """Add one message."""
        await self._messages.put(message)

    @actorfw.method(interleave=True)
    async def take(self) -> list[Message]:
        """All that is there; waits for the first one."""
        taken = [await self._messages.get()]
        while not self._messages.empty():
            taken.append(self._messages.get_nowait())
        return taken


@actorfw.remote
def produce(store: MessageStore, producer: int, messages: int) -> int:
    """Runs in a worker process and feeds the store."""
    for number in range(messages):
        actorfw.get(store.put(Message(producer, number)))
    return messages


async def run(producers: int, messages: int) -> None:
    async with actorfw.init():
        store = MessageStore.remote()
        refs = [produce.remote(store, producer, messages) for producer in range(producers)]
        taken: list[Message] = []
        while len(taken) < producers * messages:
            taken += await store.take()
        assert sum(await asyncio.gather(*refs)) == len(taken)
    seen: Counter[int] = Counter()
    for message in taken:
        assert message.number == seen[message.producer], "the messages of one producer came out of order"
        seen[message.producer] += 1
    print(f"took {len(taken)} messages of {len(seen)} producers, each producer's in order")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--messages", type=int, default=25, help="messages of each producer")
    options = parser.parse_args(argv)
    actorfw.run(run(options.producers, options.messages))


if __name__ == "__main__":
    main()
