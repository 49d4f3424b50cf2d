"""The lines of code that make objects: noted where that costs next to nothing, and made text where somebody reads it.

`.remote()` and `put` note the code object and how far it had come, which is two loads; to look up the number of the
line takes time that grows with the length of the function, so that is done when an error or a listing wants it, or when
the ref leaves its node for the first time. From then on the text travels with the address hint of the ref, behind a
blank: a borrower needs it just when the node that it could ask is gone.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from actorfw.runtime.refs import ObjectRef

__all__ = ["Place", "Places", "address_in", "caller", "hint", "line_in", "line_of", "note", "text"]

Place: TypeAlias = tuple[CodeType, int]
"""The code, and where in it (`f_lasti`)."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LONGEST: Final = 120  # characters; of a longer path the end is kept, which says more
_KNOWN: Final = 4096  # places whose text is kept
_MOST: Final = 10_000  # lines that a worker may number, after which it begins anew

_texts: dict[Place, str] = {}


def note(made: Any, frame: FrameType) -> None:
    """What a call has given, a ref, several or a stream, was made in this frame."""
    place = (frame.f_code, frame.f_lasti)
    if type(made) is tuple:
        for one in made:
            one._made = place
    else:
        made._made = place


def text(place: Place) -> str:
    """`file:line in function`; "" for a place in actorfw itself."""
    found = _texts.get(place)
    if found is None:
        code, at = place
        if code.co_filename.startswith(_PACKAGE):
            return ""
        number = next((line for start, end, line in code.co_lines() if start <= at < end and line), code.co_firstlineno)
        function = "" if code.co_name == "<module>" else f" in {code.co_qualname}"
        found = f"{code.co_filename}:{number}{function}"
        if len(found) > _LONGEST:
            found = "..." + found[3 - _LONGEST :]
        if len(_texts) >= _KNOWN:
            _texts.clear()
        _texts[place] = found
    return found


def line_of(ref: ObjectRef[Any]) -> str:
    """The line that made an object, as far as this ref knows; else ""."""
    made: Place | str | None = getattr(ref, "_made", None)
    if made is None:
        return line_in(ref._address)
    return made if isinstance(made, str) else text(made)


def hint(address: str, line: str) -> str:
    """What a ref takes along: the owner's address, and the line that made the object if it is known."""
    return f"{address} {line}" if line else address


def address_in(hint: str) -> str:
    """The address in the hint of a ref."""
    return hint.partition(" ")[0]


def line_in(hint: str) -> str:
    """The line in the hint of a ref, or ""."""
    return hint.partition(" ")[2]


def caller() -> Place | None:
    """Where in the user's code we are."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame is not None else None


class Places:
    """The lines in which a worker process submits, for its node: each goes along once, from then on only its number."""

    def __init__(self) -> None:
        self._numbers: dict[Place, int] = {}
        self._next = 1

    def wire(self) -> Any:
        """The line that is running: its number, or [number, text] the first time; 0 if it is not known."""
        place = caller()
        if place is None:
            return 0
        number = self._numbers.get(place)
        if number is None:
            if len(self._numbers) >= _MOST:
                self._numbers.clear()
            number = self._numbers[place] = self._next
            self._next += 1
            return [number, text(place)]
        return number


class Told:
    """The same at the node: what the workers' numbers mean."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[int, str]] = {}  # by worker

    def line(self, worker: int, wire: Any) -> str:
        """The line that a worker's message names, or ""."""
        lines = self._lines.setdefault(worker, {})
        if type(wire) is list:
            if len(lines) >= _MOST:
                del lines[next(iter(lines))]
            lines[wire[0]] = wire[1]
            return str(wire[1])
        return lines.get(wire, "")

    def forget(self, worker: int) -> None:
        """It has ended."""
        self._lines.pop(worker, None)
