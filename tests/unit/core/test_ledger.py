"""The books of a node: exact amounts, devices, blocked workers, and room kept for the oldest."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from actorfw.core.ledger import UNIT, Grant, Ledger, Shape
from actorfw.values.errors import UsageError


def cpus(amount: float) -> Shape:
    return Shape.of(num_cpus=amount)


def gpus(amount: float) -> Shape:
    return Shape.of(num_gpus=amount)


def taken(ledger: Ledger, shape: Shape, *, lasting: bool = False) -> Grant:
    grant = ledger.take(shape, lasting=lasting)
    assert grant is not None
    return grant


class TestShape:
    def test_equal_requests_are_equal(self) -> None:
        one = Shape.of(num_cpus=1, resources={"b": 2, "a": 0.5})
        other = Shape.of(num_cpus=1.0, num_gpus=0, resources={"a": 0.5, "b": 2.0, "c": 0})
        assert one == other
        assert hash(one) == hash(other)
        assert one.as_dict() == {"CPU": 1, "a": 0.5, "b": 2}

    def test_it_travels(self) -> None:
        shape = Shape.of(num_cpus=1, num_gpus=0.25, memory=1 << 40, resources={"licence": 1})
        assert Shape.from_wire([list(row) for row in shape.amounts]) == shape

    @pytest.mark.parametrize(
        "rows",
        [None, [["CPU"]], [["CPU", 0]], [["CPU", -1]], [["CPU", 1.0]], [["CPU", True]], [[1, 1]], ["xy"],
         [["CPU", 1], ["CPU", 1]], [["CPU", 1 << 63]], [["GPU", 15_000]]],
    )  # fmt: skip
    def test_garbage_does_not(self, rows: object) -> None:
        with pytest.raises(ValueError, match="shape"):
            Shape.from_wire(rows)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_cpus": -1}, "num_cpus is -1"),
            ({"num_cpus": "2"}, "num_cpus is '2'"),
            ({"num_cpus": True}, "num_cpus is True"),
            ({"num_cpus": float("nan")}, "num_cpus is nan"),
            ({"memory": float("inf")}, "memory is inf"),
            ({"memory": 10**400}, "memory is 1000"),
            ({"num_cpus": 0.00001}, "least amount"),
            ({"num_gpus": 1.5}, "num_gpus is 1.5"),
            ({"resources": ["a"]}, "resources is"),
            ({"resources": {"": 1}}, "resources has the name ''"),
            ({"resources": {"CPU": 1}}, "num_cpus"),
            ({"resources": {"a": None}}, r"resources\['a'\] is None"),
        ],
    )
    def test_bad_options_are_named(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Shape.of(**options)  # type: ignore[arg-type]

    def test_slots(self) -> None:
        totals = Shape.of(num_cpus=8, num_gpus=2, memory=4000)
        assert cpus(3).slots(totals) == 2
        assert gpus(0.4).slots(totals) == 4  # two on each, and nothing across
        assert gpus(2).slots(totals) == 1
        assert gpus(3).slots(totals) == 0
        assert Shape.of(num_cpus=1, memory=1000).slots(totals) == 4
        assert Shape().slots(totals) == 8
        assert Shape().slots(Shape()) == 1

    def test_text(self) -> None:
        text = str(Shape.of(num_cpus=0.5, memory=3 << 30, resources={"x": 2}))
        assert text == "CPU 0.5, memory 3 GiB, x 2"
        assert str(Shape.of(memory=5 << 20)) == "memory 5 MiB"
        assert str(Shape()) == "nothing"


class TestLedger:
    def test_ten_tenths_are_one(self) -> None:
        ledger = Ledger(cpus(1))
        grants = [taken(ledger, cpus(0.1)) for _ in range(10)]
        assert ledger.take(cpus(0.1)) is None
        assert ledger.available() == {"CPU": 0}
        for grant in grants:
            ledger.release(grant)
        assert ledger.available() == {"CPU": 1}

    def test_what_is_not_there_never_fits(self) -> None:
        ledger = Ledger(cpus(2))
        assert not ledger.fits_totals(Shape.of(resources={"x": 1}))
        assert ledger.take(Shape.of(resources={"x": 1})) is None
        assert ledger.take(gpus(1)) is None
        assert ledger.fits_totals(cpus(2))
        assert ledger.totals == cpus(2)

    def test_nothing_needs_no_room(self) -> None:
        ledger = Ledger(Shape())
        ledger.release(taken(ledger, Shape()))
        assert ledger.available() == {}

    def test_actors_that_ask_for_nothing_share_what_they_hold(self) -> None:
        ledger = Ledger(cpus(1))
        one, other = taken(ledger, Shape(), lasting=True), taken(ledger, Shape(), lasting=True)
        assert one is other
        assert not ledger.give_back_cpu(one)  # one of them waits
        ledger.release(one)
        ledger.retake_cpu(other)
        ledger.release(other)
        assert taken(ledger, Shape(), lasting=True) is one
        assert ledger.available() == {"CPU": 1}

    def test_released_twice_is_a_mistake(self) -> None:
        ledger = Ledger(cpus(1))
        grant = taken(ledger, cpus(1))
        ledger.release(grant)
        with pytest.raises(ValueError, match="released before"):
            ledger.release(grant)
        with pytest.raises(ValueError, match="released before"):
            ledger.retake_cpu(grant)
        assert "ended" in repr(grant)

    def test_part_of_a_gpu_is_no_total(self) -> None:
        with pytest.raises(UsageError, match="whole number"):
            Ledger(gpus(0.5))

    def test_shares_pack_onto_one_device(self) -> None:
        ledger = Ledger(gpus(2))
        first = taken(ledger, gpus(0.5))
        assert first.gpus == (0,)
        assert taken(ledger, gpus(0.4)).gpus == (0,)
        whole = taken(ledger, gpus(1))
        assert whole.gpus == (1,)
        assert ledger.take(gpus(0.2)) is None  # 0.1 is left
        ledger.release(whole)
        assert taken(ledger, gpus(0.2)).gpus == (1,)
        ledger.release(first)
        assert ledger.take(gpus(1)) is None  # 1.4 is free, but no whole device
        assert taken(ledger, gpus(0.7)).gpus == (1,)

    def test_several_devices(self) -> None:
        ledger = Ledger(gpus(3))
        assert taken(ledger, gpus(2)).gpus == (0, 1)
        assert ledger.take(gpus(2)) is None
        assert taken(ledger, gpus(1)).gpus == (2,)


class TestBlocked:
    def test_it_gives_its_cpu_and_nothing_else(self) -> None:
        ledger = Ledger(Shape.of(num_cpus=1, num_gpus=1, resources={"x": 1}))
        parent = taken(ledger, Shape.of(num_cpus=1, num_gpus=1, resources={"x": 1}))
        assert ledger.give_back_cpu(parent)
        assert not ledger.give_back_cpu(parent)
        assert ledger.available() == {"CPU": 1, "GPU": 0, "x": 0}
        assert "blocked" in repr(parent)

    def test_it_resumes_without_room_and_nobody_is_admitted_then(self) -> None:
        ledger = Ledger(cpus(2))
        parent = taken(ledger, cpus(2))
        ledger.give_back_cpu(parent)
        child, other = taken(ledger, cpus(1)), taken(ledger, cpus(1))
        ledger.retake_cpu(parent)
        ledger.retake_cpu(parent)
        assert ledger.available() == {"CPU": 0}
        ledger.release(child)
        assert ledger.take(cpus(1)) is None
        ledger.release(other)
        assert ledger.take(cpus(1)) is None
        assert ledger.take(Shape()) is not None
        ledger.release(parent)
        assert ledger.available() == {"CPU": 2}

    def test_it_dies_blocked(self) -> None:
        ledger = Ledger(Shape.of(num_cpus=1, resources={"x": 1}))
        parent = taken(ledger, Shape.of(num_cpus=1, resources={"x": 1}))
        ledger.give_back_cpu(parent)
        ledger.release(parent)
        assert ledger.available() == {"CPU": 1, "x": 1}

    def test_without_cpu_there_is_nothing_to_give(self) -> None:
        ledger = Ledger(gpus(1))
        grant = taken(ledger, gpus(1))
        assert not ledger.give_back_cpu(grant)
        ledger.retake_cpu(grant)
        ledger.release(grant)
        assert ledger.available() == {"GPU": 1}


class TestReserve:
    def test_the_oldest_gets_what_becomes_free(self) -> None:
        ledger = Ledger(cpus(2))
        small, other = taken(ledger, cpus(1)), taken(ledger, cpus(1))
        assert not ledger.reserve(cpus(2), 10.0)
        ledger.release(small)
        small = taken(ledger, cpus(1))  # it has not waited long enough
        assert not ledger.reserve(cpus(2), 10.9)
        assert ledger.reserve(cpus(2), 11.0)
        ledger.release(small)
        assert not ledger.has_room(cpus(1))
        assert ledger.take(cpus(1)) is None
        ledger.release(other)
        assert ledger.take(cpus(1)) is None
        big = taken(ledger, cpus(2))
        ledger.release(big)
        assert ledger.take(cpus(1)) is not None

    def test_others_get_what_is_left_beside_it(self) -> None:
        ledger = Ledger(Shape.of(num_cpus=4, resources={"x": 1}))
        holder = taken(ledger, Shape.of(num_cpus=1, resources={"x": 1}))
        wanted = Shape.of(num_cpus=2, resources={"x": 1})
        ledger.reserve(wanted, 0.0)
        assert ledger.reserve(wanted, 1.0)
        assert ledger.take(cpus(2)) is None
        assert ledger.take(cpus(1)) is not None
        assert ledger.take(cpus(1)) is None
        ledger.release(holder)
        assert ledger.take(wanted) is not None

    def test_a_new_oldest_starts_anew(self) -> None:
        ledger = Ledger(cpus(2))
        taken(ledger, cpus(1))
        ledger.reserve(cpus(2), 0.0)
        assert ledger.reserve(cpus(2), 5.0)
        assert not ledger.reserve(cpus(1.5), 5.0)
        assert ledger.take(cpus(1)) is not None

    def test_withdrawn(self) -> None:
        ledger = Ledger(cpus(2))
        taken(ledger, cpus(1))
        ledger.reserve(cpus(2), 0.0)
        ledger.reserve(cpus(2), 5.0)
        ledger.unreserve()
        assert ledger.take(cpus(1)) is not None

    def test_a_whole_device_is_not_nibbled_at(self) -> None:
        ledger = Ledger(gpus(3))
        first = taken(ledger, gpus(1))
        half = taken(ledger, gpus(0.5))
        ledger.reserve(gpus(2), 0.0)
        assert ledger.reserve(gpus(2), 1.0)
        ledger.release(first)
        ledger.release(half)
        third = taken(ledger, gpus(0.5))  # three whole ones: one may go
        assert taken(ledger, gpus(0.5)).gpus == third.gpus
        assert ledger.take(gpus(0.5)) is None
        assert ledger.take(gpus(2)) is not None

    def test_nothing_is_set_aside_for_what_never_fits(self) -> None:
        ledger = Ledger(cpus(2))
        ledger.reserve(cpus(3), 0.0)
        assert not ledger.reserve(cpus(3), 9.0)
        assert ledger.take(cpus(2)) is not None

    def test_nor_for_what_an_actor_holds_for_good(self) -> None:
        ledger = Ledger(cpus(4))
        actor = taken(ledger, cpus(1), lasting=True)
        ledger.give_back_cpu(actor)
        ledger.reserve(cpus(4), 0.0)
        assert not ledger.reserve(cpus(4), 9.0)
        ledger.retake_cpu(actor)
        taken(ledger, cpus(1))
        ledger.release(actor)
        assert ledger.reserve(cpus(4), 9.0)
        assert ledger.take(cpus(1)) is None

    def test_nor_for_a_device_of_which_an_actor_has_a_share(self) -> None:
        ledger = Ledger(gpus(2))
        first = taken(ledger, gpus(0.6), lasting=True)
        second = taken(ledger, gpus(0.6), lasting=True)
        assert (first.gpus, second.gpus) == ((0,), (1,))
        ledger.reserve(gpus(1), 0.0)
        assert not ledger.reserve(gpus(1), 9.0)
        assert taken(ledger, gpus(0.4)).gpus == (0,)
        ledger.release(second)
        assert ledger.reserve(gpus(1), 9.0)

    def test_the_child_of_a_blocked_parent_is_not_kept_out(self) -> None:
        """The oldest waits for what the parent holds, the parent for its child: the child must find room."""
        ledger = Ledger(Shape.of(num_cpus=1, resources={"x": 1}))
        both = Shape.of(num_cpus=1, resources={"x": 1})
        parent = taken(ledger, both)
        ledger.reserve(both, 0.0)
        assert ledger.reserve(both, 1.0)
        ledger.give_back_cpu(parent)
        child = taken(ledger, cpus(1))
        ledger.retake_cpu(parent)
        ledger.release(child)
        assert ledger.take(cpus(1)) is None
        ledger.release(parent)
        assert ledger.take(cpus(1)) is None
        assert ledger.take(both) is not None


TOTALS = Shape.of(num_cpus=3, num_gpus=2, memory=1000, resources={"x": 1.5})


def shape_of(cpu: float, gpu: float, memory: float, x: float) -> Shape:
    return Shape.of(num_cpus=cpu, num_gpus=gpu, memory=memory, resources={"x": x})


SHAPES = st.builds(
    shape_of,
    st.sampled_from([0, 0.1, 0.3, 1, 2, 4]),
    st.sampled_from([0, 0, 0.25, 0.3, 0.7, 1, 2, 3]),
    st.sampled_from([0, 1, 333, 1000]),
    st.sampled_from([0, 0.1, 0.5, 1.5]),
)


class LedgerMachine(RuleBasedStateMachine):
    """Anything in any order: amounts add up exactly, and no device is given twice."""

    grants = Bundle("grants")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(TOTALS)
        self.held: list[Grant] = []
        self.blocked: list[Grant] = []
        self.resumed: list[Grant] = []
        self.now = 0.0

    @rule(target=grants, shape=SHAPES, lasting=st.booleans())
    def take(self, shape: Shape, lasting: bool) -> object:
        room = self.ledger.has_room(shape)
        before = self.ledger.available()
        grant = self.ledger.take(shape, lasting=lasting)
        assert (grant is not None) == room
        if grant is None:
            return multiple()
        assert self.ledger.fits_totals(shape)
        assert all(before[name] * UNIT >= units - 1e-6 for name, units in shape.amounts)
        self.held.append(grant)
        return grant

    @rule(grant=consumes(grants))
    def release(self, grant: Grant) -> None:
        self.ledger.release(grant)
        for those in (self.held, self.blocked, self.resumed):
            if grant in those:
                those.remove(grant)

    @rule(grant=grants)
    def block(self, grant: Grant) -> None:
        self.ledger.give_back_cpu(grant)
        if grant not in self.blocked:
            self.blocked.append(grant)

    @rule(grant=grants)
    def resume(self, grant: Grant) -> None:
        self.ledger.retake_cpu(grant)
        if grant in self.blocked:
            self.blocked.remove(grant)
            self.resumed.append(grant)

    @rule(shape=SHAPES, later=st.sampled_from([0.0, 0.4, 2.0]))
    def reserve(self, shape: Shape, later: float) -> None:
        self.now += later
        self.ledger.reserve(shape, self.now)

    @rule()
    def unreserve(self) -> None:
        self.ledger.unreserve()

    @invariant()
    def totals_are_exact(self) -> None:
        for name, total in TOTALS.amounts:
            users = [g for g in self.held if name != "CPU" or g not in self.blocked]
            used = sum(g.shape.units(name) for g in users)
            assert self.ledger._free[name] == total - used
            if used > total:
                assert name == "CPU"
                # Without those that resumed it would fit: nobody was admitted beyond what there is.
                assert used - sum(g.shape.units(name) for g in self.resumed if g not in self.blocked) <= total

    @invariant()
    def no_device_is_given_twice(self) -> None:
        used = [0, 0]
        for grant in self.held:
            units = grant.shape.units("GPU")
            assert len(grant.gpus) == (units // UNIT if units >= UNIT else bool(units))
            assert len(set(grant.gpus)) == len(grant.gpus)
            for index in grant.gpus:
                used[index] += min(units, UNIT)
        assert all(0 <= units <= UNIT for units in used)
        assert self.ledger._devices == [UNIT - units for units in used]

    def teardown(self) -> None:
        for grant in self.held:
            self.ledger.release(grant)
        assert self.ledger.available() == TOTALS.as_dict()
        assert not any(self.ledger._stuck.values())
        assert not any(self.ledger._stuck_devices)


LedgerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
TestLedgerMachine = LedgerMachine.TestCase
