"""The members as one of them knows them: records, tombstones, the view's fingerprint, and the news about them.

Responsible for: keeping these four in step. Leaves to others: what may enter, and what follows from a change.
"""

from __future__ import annotations

from typing import Any, Final

from actorfw.core.gossip import Fingerprint, News, in_buckets
from actorfw.core.records import Record
from actorfw.values.ids import NODE_ID_BYTES, Life
from actorfw.values.profiles import Profile

__all__ = ["TOMBSTONES", "View"]

TOMBSTONES: Final = 4096
"""Kept at most, the newest."""


class View:
    """What one member knows.

    Attributes:
        records: the members that are neither dead nor left, this one included.
        tombstones: the records of those that are, with the time at which that was learned.
        news: what is still to be passed on.
        fingerprint: of the records.
    """

    def __init__(self, me: Record, profile: Profile) -> None:
        self.records: dict[Life, Record] = {me.life: me}
        self.tombstones: dict[Life, tuple[Record, float]] = {}
        self.news = News()
        self.fingerprint = Fingerprint()
        self.fingerprint.change(None, me)
        self._profile = profile
        self._nodes = {me.life[:NODE_ID_BYTES]: me.life}

    def put(self, record: Record, news: bool = True) -> None:
        """A record is new or has changed, which is news unless all know it."""
        life = record.life
        known = self.records.get(life)
        if known is None:
            self._nodes[life[:NODE_ID_BYTES]] = life
        self.records[life] = record
        self.fingerprint.change(known, record)
        if news:
            self.news.add(life, full=known is None or record.refutation > known.refutation)

    def bury(self, record: Record, now: float) -> Record | None:
        """A member is dead or has left; the answer is what it was until now."""
        life = record.life
        known = self.records.pop(life, None)
        if known is not None:
            self.fingerprint.change(known, None)
            if self._nodes.get(life[:NODE_ID_BYTES]) == life:
                del self._nodes[life[:NODE_ID_BYTES]]
        self.tombstones[life] = (record, now)
        self.news.add(life, full=record.left)
        return known

    def other_life(self, life: Life) -> Record | None:
        """The member that is another life of the same node."""
        other = self._nodes.get(life[:NODE_ID_BYTES])
        return None if other is None or other == life else self.records[other]

    def find(self, life: Life) -> Record | None:
        """A member, or what is on its tombstone."""
        record = self.records.get(life)
        if record is None and life in self.tombstones:
            return self.tombstones[life][0]
        return record

    def take_news(self, most: int) -> list[list[Any]]:
        """Rows for one message."""
        if not self.news:
            return []
        return self.news.take(self.find, self._profile.transmissions(len(self.records)), most)

    def rows_in(self, buckets: set[int]) -> list[list[Any]]:
        """All that is known in these buckets, tombstones included."""
        records = in_buckets(self.records.values(), buckets)
        dead = in_buckets((record for record, _ in self.tombstones.values()), buckets)
        return [record.to_wire() for record in (*records, *dead)]

    def expire(self, now: float) -> None:
        """Forget the tombstones that are too old or too many."""
        old = now - self._profile.tombstone_keep
        for life in [life for life, (_, at) in self.tombstones.items() if at < old]:
            del self.tombstones[life]
        while len(self.tombstones) > TOMBSTONES:
            del self.tombstones[next(iter(self.tombstones))]
