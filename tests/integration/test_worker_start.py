"""What a worker process finds ready when it starts, since each pays for what it has to make itself."""

from __future__ import annotations

import gc

import pytest

import actorfw
from actorfw.values.data import Data

pytestmark = pytest.mark.real


def made_here() -> list[str]:
    """The data classes whose methods were made in this process: those of before the fork are frozen."""
    young = {id(found) for found in gc.get_objects()}
    kinds = list(Data.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [kind.__qualname__ for kind in kinds if id(kind.__dict__.get("__init__")) in young]


class Newborn(actorfw.Actor):
    @actorfw.method
    def look(self) -> list[str]:
        return made_here()


@actorfw.remote
def look() -> list[str]:
    return made_here()


async def test_no_class_of_ours_is_made_in_a_worker() -> None:
    async with actorfw.init(num_cpus=1):
        newborn = Newborn.options(executor="process").remote()
        assert await newborn.look() == []
        assert await look.remote() == []
