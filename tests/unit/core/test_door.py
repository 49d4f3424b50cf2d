"""Who may stand at the door, who goes first, and whose turn it is."""

from __future__ import annotations

import random
from collections import Counter

from actorfw.core.door import Crowd, Door, Turns
from actorfw.core.limits import Limits


class Caller:
    def __init__(self, group: str = "a") -> None:
        self.group = group
        self.why = ""

    def drop(self, why: str) -> None:
        self.why = why


def test_the_oldest_goes_for_who_comes_and_the_reason_names_the_limit() -> None:
    door = Door(3, 10, Limits())
    callers = [Caller() for _ in range(5)]
    for caller in callers:
        door.enter(caller)
    assert [bool(caller.why) for caller in callers] == [True, True, False, False, False]
    assert "3 connections without a handshake is the limit" in callers[0].why
    assert (door.half_open.now, door.half_open.most, door.half_open.refused) == (3, 3, 2)


def test_who_has_one_address_takes_places_from_himself() -> None:
    door = Door(10, 10, Limits())
    others = [Caller(f"other{number}") for number in range(5)]
    for caller in others:
        door.enter(caller)
    many = [Caller("attacker") for _ in range(1000)]
    for caller in many:
        door.enter(caller)
    assert not any(caller.why for caller in others)
    assert sum(not caller.why for caller in many) == 5


def test_who_has_shown_that_it_knows_a_secret_stays_while_there_are_strangers() -> None:
    door = Door(4, 10, Limits())
    guests = [Caller() for _ in range(2)]
    for guest in guests:
        door.enter(guest)
        door.recognised(guest)
    strangers = [Caller() for _ in range(50)]
    for stranger in strangers:
        door.enter(stranger)
    assert not any(guest.why for guest in guests)
    for stranger in strangers:
        door.leave(stranger)
    for guest in guests:
        door.leave(guest)
    assert door.half_open.now == 0
    assert not door.make_room("")


def test_guests_go_too_when_there_is_nobody_else() -> None:
    door = Door(2, 10, Limits())
    guests = [Caller(), Caller("b"), Caller("b")]
    for guest in guests[:2]:
        door.enter(guest)
        door.recognised(guest)
    door.enter(guests[2])
    assert [bool(guest.why) for guest in guests] == [True, False, False]


def test_a_crowd_knows_its_largest_group_whatever_happens() -> None:
    rng = random.Random(1)
    crowd = Crowd()
    here: list[Caller] = []
    for _ in range(5000):
        if here and rng.random() < 0.5:
            crowd.remove(here.pop(rng.randrange(len(here))))
        else:
            here.append(Caller(rng.choice("abcdef")))
            crowd.add(here[-1])
        assert crowd.count == len(here)
        if here:
            sizes = Counter(caller.group for caller in here)
            found = crowd.oldest_of_most()
            assert sizes[found.group] == max(sizes.values())  # type: ignore[attr-defined]
            assert found is next(caller for caller in here if caller.group == found.group)


def test_addresses_take_turns() -> None:
    turns: Turns[Caller] = Turns()
    for group in "aaaaab":
        turns.add(Caller(group))
    assert len(turns) == 6
    order = [turns.next() for _ in range(6)]
    assert "".join(caller.group for caller in order if caller) == "abaaaa"
    assert turns.next() is None
