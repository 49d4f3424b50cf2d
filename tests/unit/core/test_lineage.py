"""Making lost values again: which specs are kept, in what order tasks run, and what is said when they can't."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actorfw.core.lineage import ENDLESS, Lineage, Why


class Kept(Lineage):
    """A lineage whose lost objects stand in a set."""

    def __init__(self, most: int = 1000) -> None:
        self.gone: set[int] = set()
        super().__init__(most, self.gone.__contains__)

    def chain(self, *numbers: int, left: int = 3, size: int = 10) -> None:
        """Tasks 1, 2, ... that make these, each out of the one before."""
        before: list[int] = []
        for no, number in enumerate(numbers, 1):
            assert self.keep(no, [number], before, size, left) == []
            before = [number]


class TestKeeping:
    def test_a_spec_goes_with_the_last_of_its_results(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 5, 3)
        assert lineage.freed(10) == []
        assert lineage.freed(11) == [("forget", 1)]
        assert (len(lineage), lineage.size) == (0, 0)

    def test_a_spec_stays_as_long_as_another_needs_it(self) -> None:
        lineage = Kept()
        lineage.chain(10, 11, 12)
        assert lineage.freed(10) == []
        assert lineage.freed(11) == []
        assert len(lineage) == 3
        assert lineage.freed(12) == [("forget", 3), ("forget", 2), ("forget", 1)]

    def test_a_chain_of_any_length_goes_at_once(self) -> None:
        lineage = Kept(10**9)
        numbers = list(range(100, 20_100))
        lineage.chain(*numbers)
        for number in numbers[:-1]:
            assert lineage.freed(number) == []
        assert len(lineage.freed(numbers[-1])) == len(numbers)
        assert len(lineage) == 0

    def test_past_the_bound_the_oldest_goes(self) -> None:
        lineage = Kept(25)
        lineage.keep(1, [10], [], 10, 3)
        lineage.keep(2, [11], [], 10, 3)
        assert lineage.keep(3, [12], [], 10, 3) == [("forget", 1)]
        lineage.gone |= {10, 11}
        assert lineage.lost(10) == [("fail", 10, Why("evicted", 10))]
        assert lineage.lost(11) == [("run", 2, (11,))]

    def test_a_spec_larger_than_the_bound_is_not_kept(self) -> None:
        lineage = Kept(25)
        assert lineage.keep(1, [10], [], 26, 3) == [("forget", 1)]
        assert lineage.lost(10) == [("fail", 10, Why("too_large", 10))]

    def test_one_that_runs_is_not_evicted_before_it_has_ended(self) -> None:
        lineage = Kept(25)
        lineage.keep(1, [10], [], 20, 3)
        assert lineage.lost(10) == [("run", 1, (10,))]
        assert lineage.keep(2, [11], [], 20, 3) == [("forget", 2)]
        assert lineage.ended(1, 2) == []

    def test_reasons_are_forgotten_with_their_objects(self) -> None:
        lineage = Kept()
        lineage.note([10], "actor")
        assert lineage.lost(10) == [("fail", 10, Why("actor", 10))]
        lineage.freed(10)
        assert not lineage._reasons


class TestMakingAgain:
    def test_a_task_runs_for_what_was_lost(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 5, 3)
        assert lineage.lost(11) == [("run", 1, (11,))]

    def test_asks_coalesce(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 5, 3)
        lineage.lost(11)
        assert lineage.lost(11) == []
        assert lineage.lost(10) == [("also", 1, (10,))]
        assert lineage.ended(1, 2) == []
        assert lineage.lost(10) == [("run", 1, (10,))]

    def test_what_was_freed_among_the_arguments_is_made_first(self) -> None:
        lineage = Kept()
        lineage.chain(10, 11, 12)
        lineage.freed(10)
        lineage.freed(11)
        assert lineage.lost(12) == [("run", 1, (10,)), ("run", 2, (11,)), ("run", 3, (12,))]

    def test_so_is_what_was_lost(self) -> None:
        lineage = Kept()
        lineage.chain(10, 11)
        lineage.gone |= {10}
        assert lineage.lost(11) == [("run", 1, (10,)), ("run", 2, (11,))]

    def test_what_is_there_is_not_made(self) -> None:
        lineage = Kept()
        lineage.chain(10, 11)
        assert lineage.lost(11) == [("run", 2, (11,))]

    def test_a_task_that_two_need_runs_once(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 1, 3)
        lineage.keep(2, [12], [10], 1, 3)
        lineage.keep(3, [13], [11, 12], 1, 3)
        for number in (10, 11, 12):
            lineage.freed(number)
        assert sorted(lineage.lost(13)) == [("run", 1, (10, 11)), ("run", 2, (12,)), ("run", 3, (13,))]

    def test_runs_are_counted(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10], [], 1, 1)
        assert lineage.lost(10) == [("run", 1, (10,))]
        lineage.ended(1, 0)
        assert lineage.lost(10) == [("fail", 10, Why("used_up", 10))]

    def test_a_task_without_retries_is_not_kept(self) -> None:
        lineage = Kept()
        assert lineage.keep(1, [10], [], 1, 0) == [("forget", 1)]
        assert lineage.lost(10) == [("fail", 10, Why("no_retries", 10))]

    def test_a_task_may_run_without_end(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10], [], 1, ENDLESS)
        for _ in range(20):
            assert lineage.lost(10) == [("run", 1, (10,))]
            lineage.ended(1, ENDLESS)

    def test_what_was_put_can_not_be_made(self) -> None:
        assert Kept().lost(10) == [("fail", 10, Why("put", 10))]

    def test_nothing_runs_if_an_argument_can_not_be_had(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10], [], 1, 1)
        lineage.keep(2, [11], [10], 1, 3)
        lineage.keep(3, [12], [11], 1, 3)
        lineage.lost(10)
        lineage.ended(1, 0)
        lineage.freed(10)
        lineage.gone |= {11, 12}
        assert lineage.lost(12) == [("fail", 12, Why("used_up", 10, 11))]
        lineage.validate()

    def test_an_argument_whose_spec_was_evicted_is_named(self) -> None:
        lineage = Kept(25)
        lineage.keep(1, [10], [], 10, 3)
        lineage.keep(2, [11], [10], 10, 3)
        lineage.keep(3, [12], [], 10, 3)
        assert lineage.lost(11) == [("run", 2, (11,))]  # the argument itself is still there
        lineage.ended(2, 2)
        lineage.freed(10)
        assert lineage.lost(11) == [("fail", 11, Why("evicted", 10, 10))]

    def test_a_very_long_chain_is_made_again(self) -> None:
        lineage = Kept(10**9)
        numbers = list(range(100, 20_100))
        lineage.chain(*numbers)
        for number in numbers[:-1]:
            lineage.freed(number)
        assert [instruction[1] for instruction in lineage.lost(numbers[-1])] == list(range(1, 20_001))

    def test_a_generator_runs_again_for_an_item_that_this_run_will_not_bring(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 1, 3, items=True)
        assert lineage.lost(11) == [("run", 1, (11,))]
        assert lineage.lost(10) == []
        assert lineage.ended(1, 2) == [("run", 1, (10,))]
        assert lineage.ended(1, 1) == []

    def test_an_item_that_was_not_reached_is_gone_for_good(self) -> None:
        lineage = Kept()
        lineage.keep(1, [10, 11], [], 1, 3, items=True)
        lineage.lost(11)
        assert lineage.not_reached(11) == []
        assert lineage.ended(1, 2) == []
        assert lineage.lost(11) == [("fail", 11, Why("not_reached", 11))]
        assert lineage.lost(10) == [("run", 1, (10,))]


class Machine(RuleBasedStateMachine):
    """Against a model that works everything out anew from a list of all tasks there ever were."""

    @initialize(most=st.integers(20, 200))
    def start(self, most: int) -> None:
        self.gone: set[int] = set()
        self.lineage = Lineage(most, self.gone.__contains__)
        self.most = most
        self.tasks: dict[int, tuple[list[int], list[int], int]] = {}  # those that are not forgotten
        self.live: set[int] = set()
        self.running: dict[int, set[int]] = {}
        self.runs: dict[int, int] = {}
        self.allowed: dict[int, int] = {}
        self.numbers = 0

    def makers(self) -> dict[int, int]:
        return {number: no for no, (makes, _, _) in self.tasks.items() for number in makes}

    def carry_out(self, instructions: list[Any]) -> None:
        for what, no, *more in instructions:
            if what == "forget":
                assert no not in self.running
                self.tasks.pop(no, None)
            elif what == "run":
                assert no in self.tasks
                assert no not in self.running, "two at a time"
                self.runs[no] += 1
                assert self.runs[no] <= self.allowed[no], "more often than allowed"
                self.running[no] = set(more[0])
                self.live |= set(more[0])
            elif what == "also":
                self.running[no] |= set(more[0])
        for no in [instruction[1] for instruction in instructions if instruction[0] == "run"]:
            for needed in self.tasks[no][1]:
                if needed not in self.live or needed in self.gone:
                    assert needed in set().union(*self.running.values()), "an argument that nobody makes"

    @rule(data=st.data(), parts=st.integers(1, 3), size=st.integers(1, 60), left=st.integers(0, 2))
    def keep(self, data: st.DataObject, parts: int, size: int, left: int) -> None:
        known = sorted(number for number in self.live if self.lineage.makes(number))
        needs = data.draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        self.numbers += 100
        makes = [self.numbers + at for at in range(parts)]
        no = self.numbers
        self.live |= set(makes)
        self.tasks[no] = (makes, needs, size)
        self.allowed[no] = left
        self.runs[no] = 0
        self.carry_out(self.lineage.keep(no, makes, needs, size, left))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.live)))
        if any(number in self.tasks[no][1] for no in self.running):
            return  # whoever runs holds its arguments
        self.live.discard(number)
        self.gone.discard(number)
        for wanted in self.running.values():
            wanted.discard(number)
        self.carry_out(self.lineage.freed(number))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.gone.add(data.draw(st.sampled_from(sorted(self.live))))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.gone)))
        found: list[Any] = list(self.lineage.lost(number))
        for what, no, *more in found:
            if what == "fail":
                assert (no, len(found)) == (number, 1)
                assert more[0].root == number or more[0].argument
        self.carry_out(found)
        if number in self.makers() and not any(instruction[0] == "fail" for instruction in found):
            assert number in self.running[self.makers()[number]]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        no = data.draw(st.sampled_from(sorted(self.running)))
        for needed in self.tasks[no][1]:
            if self.makers().get(needed) in self.running and needed in self.running[self.makers()[needed]]:
                return  # what it needs is not there yet
        self.gone -= self.running.pop(no)
        self.carry_out(self.lineage.ended(no, self.allowed[no] - self.runs[no]))

    @invariant()
    def valid(self) -> None:
        if not hasattr(self, "lineage"):
            return
        self.lineage.validate()
        needed: set[int] = set()
        expected: set[int] = set()
        while True:  # from what is live, back to all that it was made of
            more = {
                no
                for no, (makes, _, _) in self.tasks.items()
                if no in self.running or any(number in self.live or number in needed for number in makes)
            }
            if more == expected:
                break
            expected = more
            needed = {number for no in expected for number in self.tasks[no][1]}
        assert set(self.lineage._specs) == expected


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstAModel = Machine.TestCase
