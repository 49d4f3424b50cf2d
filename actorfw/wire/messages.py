"""The kinds of messages between nodes, and between a node and its worker processes.

A message is a plain sequence whose first field is one of these numbers; what the others are stands above each kind.
`no` is the number of a call in the submitting life (towards a worker: its serial at the node), `args` and `out` are
wire values (`payload`), `deps` are the refs at top level of the arguments, `left` is what is left of a deadline in
milliseconds or None, `credit` is how many items of a stream may be ahead, 0 for no stream.

Kinds below 8 belong to the links themselves (`runtime.peers`). A message whose wire values carry refs counts as one
ref-carrying message between sender and receiver (`core.ownership`), whatever its kind.
"""

from __future__ import annotations

from typing import Final

# States of an answer.
VALUE: Final = 1
ERROR: Final = 2
PARTS: Final = 3  # `out` is a list of wire values, one for each of `num_returns`
BROKE: Final = 4  # an error too: of what ran the attempt, not of the task, so another attempt may be made

# -- code, both ways ---------------------------------------------------------------------------------------------------

# (hash, bytes); before the first message that names the hash
BLOB: Final = 8

# -- tasks -------------------------------------------------------------------------------------------------------------

# (no, definition hash, args, deps, left, attempt, credit, num_returns); to a worker also ((life, no), devices)
TASK: Final = 9
# (no, state, out, kept, attempt[, items]); attempt 0: of an actor's call; `items`: how many a stream had
RESULT: Final = 10
# (no, index, attempt, out); from and to workers (no, index, out)
ITEM: Final = 11
# (no, n): the consumer took n items more; -1: it went away
CREDIT: Final = 12
# (no, force, recursive); from a worker also (owner life)
CANCEL: Final = 13
# (no, attempt, load): it never ran here
BOUNCE: Final = 14

# -- actors ------------------------------------------------------------------------------------------------------------

# (no, life, number, incarnation, method, args, deps, left, credit, num_returns, caller, tell?); no 0: a tell
CALL: Final = 15
# (no, life, number): it never ran; ask the guardian
NOT_HERE: Final = 16
# (number, incarnation, definition hash, args, deps, interface); to a worker: id first, devices last
CREATE: Final = 17
# (life, number, incarnation, "up" | "failed" | "no_room", out, kept)
CREATED: Final = 18
# (life, number, how): from users to the guardian and from it to the host; "killed" | "stopped" | "released" ...
END: Final = 19
# (life, number, incarnation, reason, out): host to guardian
ENDED: Final = 20
# (life, number): to the guardian
LOCATE: Final = 21
# (life, number, target life, target number, incarnation, host life, host address, error | None)
LOCATED: Final = 22

# -- objects -----------------------------------------------------------------------------------------------------------

# (owner life, number, with the value?); from a worker also (address hint)
FETCH: Final = 23
# (owner life, number, state, out); to a worker, ahead of the call that needs it, also (True)
SETTLED: Final = 24
# (number)
BORROW: Final = 25
# (number)
GRANT: Final = 26
# (number)
GONE: Final = 27
# (owner life, number, as of)
RETURN: Final = 28

# -- the rest ----------------------------------------------------------------------------------------------------------

# (label, "stdout" | "stderr", text)
OUTPUT: Final = 29
# (request, verb, payload): control requests
ASK: Final = 30
# (request, ok?, payload)
ANSWER: Final = 31
# (rows): members that the sender knows, itself among them
MEMBERS: Final = 32
# (message of core.names)
NAMES: Final = 33

# -- between a node and its workers only -------------------------------------------------------------------------------

# (): it is about to wait in get(); its CPU is free
BLOCKED: Final = 40
# ()
UNBLOCKED: Final = 41
# ([no, ...]): never started here, run them elsewhere
HANDED_BACK: Final = 42
# (number, definition hash, args, deps, left, parent, num_returns, credit, options): a nested task
SUBMIT: Final = 43
# (number, life, actor, method, args, deps, left, parent, credit, num_returns, address, ordered); number 0: a tell
INVOKE: Final = 44
# (number, definition hash, args, deps, parent, options, interface): a new actor
SPAWN: Final = 45
# (number, out): a new object
PUT: Final = 46
# ([[owner life, number, as of], ...]): its last handles to them are gone
RELEASE: Final = 47
# (reason): end when done with what you have
STOP: Final = 48
# (no): a call of a process actor that may run several has started
STARTED: Final = 49
