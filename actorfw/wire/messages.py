"""The kinds of messages between nodes, and between a node and its worker processes.

A message is a plain sequence whose first field is one of these numbers; what the others are stands above each kind.
`no` is the number of a call in the submitting life (towards a worker: its serial at the node), `args` and `out` are
wire values (`payload`), `deps` are the refs at top level of the arguments, `left` is what is left of a deadline in
milliseconds or None, for a call that belongs to a trace [that, traceparent, tracestate] (to a worker: these two follow
its life and number), `credit` is how many items of a stream may be ahead, 0 for no stream.

Kinds below 8 belong to the links themselves (`runtime.peers`). A message whose wire values carry refs counts as one
ref-carrying message between sender and receiver (`core.ownership`), whatever its kind.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = 96
"""One more than the highest of them."""

# States of an answer.
VALUE: Final = 1
ERROR: Final = 2
PARTS: Final = 3  # `out` is a list of wire values, one for each of `num_returns`
BROKE: Final = 4  # an error too: of what ran the attempt, not of the task, so another attempt may be made
STORED: Final = 5  # a value that stays where it was made: `out` is [number of its ref, bytes]; as a part, too

# -- code, both ways ---------------------------------------------------------------------------------------------------

# (hash, bytes); before the first message that names the hash
BLOB: Final = 8

# -- tasks -------------------------------------------------------------------------------------------------------------

# (no, definition hash, args, deps, left, attempt, credit, num_returns, flags); to a worker instead of the flags
# ((life, no), devices)
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

LIMITED: Final = 1  # a flag of a task: its submitter gives it a schedule_timeout
LAST_ATTEMPT: Final = 2  # and: it does not run again after this

LEFT_OF_TASK: Final = 5  # where it stands in the message

# -- actors ------------------------------------------------------------------------------------------------------------

# (no, life, number, incarnation, method, args, deps, left, credit, num_returns, caller, attempt); attempt 0: a tell
CALL: Final = 15
LEFT_OF_CALL: Final = 8  # where it stands in the message
# (no, incarnation, kept): it never ran; ask the guardian for a later one (0: to the guardian itself, whose creation had
# found no room)
NOT_HERE: Final = 16
# (life, number, incarnation, definition hash, args, deps, interface, lasting?, the name to be held, where voters decide
# about names); to a worker: id first, devices behind the interface, no name
CREATE: Final = 17
# (life, number, incarnation, "up" | "failed" | "hopeless" | "no_room", out, kept)
CREATED: Final = 18
# (life, number, how, incarnation): "killed" | "stopped" | "released" ..., from the guardian to the host; incarnation 0:
# from a user to the guardian; to a worker: without incarnation
END: Final = 19
# (life, number, incarnation, reason, out): host to guardian
ENDED: Final = 20
# (life, number, incarnation): to the guardian; a later one than this, which is over
LOCATE: Final = 21
# (life, number, target life, target number, incarnation, lasting?, host life, host address, error | None); without a
# host and an error: ask the target's guardian, at that address
LOCATED: Final = 22
# (no, incarnation, why, items, kept): it had started when its incarnation was lost, and another one follows
LOST: Final = 62
# (no, life, number, incarnation, method, args, deps, credit, caller, trace | None): a tell that never ran, for a later
# incarnation
RETURNED: Final = 63

# -- objects -----------------------------------------------------------------------------------------------------------

# (owner life, number, with the value?); from a worker also (address hint), and None in the place of yes or no: nobody
# there waits for it any more; from a node 2: yes, but a large one is not to come unasked, and when it asks again also
# (sources that it can't reach, sources that lack it)
FETCH: Final = 23
# (owner life, number, state, out); to a worker, ahead of the call that needs it, also (True). STORED: out is (bytes,
# version, [(life, address), ...], begun?): from where to pull it; begun: the sender, the first of these, sends already.
# State 0, to a worker: it took the question back
SETTLED: Final = 24
# (owner life, number, version, offset, bytes, first?): send this much of your copy; first: and what it consists of
PULL: Final = 70
# (owner life, number, version, offset, (form, sizes) | None, (refs, codes)), and the bytes in pieces
PULLED: Final = 71
# (owner life, number, version, data, [buffer or [arena token, block, offset, bytes], ...], refs, codes): in the place
# of PULLED, to a node that reads the sender's memory (runtime.store.hostmates)
LENT: Final = 75
# (owner life, number, version, offset): it is not here
LACKING: Final = 72
# (owner life, number, version, what): to the owner, of a copy (runtime.store.locations)
HAS: Final = 73
# ([(owner life, number, version), ...]): nobody needs your copies of these; version -1: of any
FREE: Final = 74
# (owner life, number); an owner's life may be one whose heir the owner is
BORROW: Final = 25
# (owner life, number)
GRANT: Final = 26
# (owner life, number)
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
# (message of core.names)
NAMES: Final = 33

# -- back-pressure of actor calls --------------------------------------------------------------------------------------

# ([no, ...]): they have started, and will not be answered soon
BEGUN: Final = 38
# (no): to the host: say when this call is in its mailbox
ACCEPT: Final = 39
# (no): it is
ACCEPTED: Final = 51
# (message of core.membership)
MEMBERSHIP: Final = 34

# -- leaving -----------------------------------------------------------------------------------------------------------

# (life, number, state, out): a value that the heir is to have; state 0: an actor, out is what its guardian knows
INHERIT: Final = 52
# ([(life, heir, the heir's address), ...]): who answers now for those that left, or are about to
MOVED: Final = 53
# ([(life, number), ...], [(namespace, name, entry), ...]): all of them have been sent. Back, (None, None): the heir has
# them
INHERITED: Final = 54
# (host, life, number, incarnation, reason, out): from the leaver to its heir, an ENDED that still came to it
RELAY: Final = 55

# -- watching ----------------------------------------------------------------------------------------------------------

# (life, number, incarnation): to the host: say when that incarnation has ended
WATCH: Final = 35
# (life, number): nobody here watches it any more
UNWATCH: Final = 36
# (life, number, incarnation, reason, detail): from the host, behind the last that the incarnation sent there
WATCHED: Final = 37
# (kind, fields): something happened to an actor (values.events)
EVENT: Final = 61

# ([what, number of the group, ...]): placement groups (runtime.bundles)
BUNDLES: Final = 56

# (message of core.voters and core.leases)
VOTES: Final = 60

# -- between a node and its workers only -------------------------------------------------------------------------------

# (): it is about to wait in get(); its CPU is free
BLOCKED: Final = 40
# ()
UNBLOCKED: Final = 41
# ([no, ...]): never started here, run them elsewhere
HANDED_BACK: Final = 42
# (number, definition hash, args, deps, left, parent, num_returns, credit, options): a nested task
SUBMIT: Final = 43
# (number, life, actor, method, args, deps, left, parent, credit, num_returns, address, group, max_task_retries);
# number 0: a tell
INVOKE: Final = 44
# (number, definition hash, args, deps, parent, options, interface): a new actor
SPAWN: Final = 45
# (number, out): a new object
PUT: Final = 46
# ([[owner life, number, as of], ...]): its last handles to them are gone
RELEASE: Final = 47
# (request, [bytes, ...]): shared memory for the buffers of a value
ALLOC: Final = 64
# (request, [buffer, ...] | None, error | None): to be filled; None: there is none, and why if that is an error
ALLOCATED: Final = 65
# ([[arena token, number, how often it came], ...]): nothing in the worker reads these any more
LET_GO: Final = 66
# (environment, working folder or "", [where its modules are, ...]): what the process is to be like
ENVIRONMENT: Final = 68
# (reason): end when done with what you have
STOP: Final = 48
# (old life, new life): the node has a new life, and all ids are renamed; the worker answers with the same
REBORN: Final = 57
# (no): a call has started, of a process actor that may run several, or whose starts can't be noted in `runtime.marks`
STARTED: Final = 49
# (no, [[owner life, number], ...]): this call of an actor waits for all these in get(); none: it goes on
AWAITS: Final = 58
# ([no, ...]): calls wait long behind one of these, or none is known; which one is it, and where does it hang? Back,
# (no, place): no 0: not known
HANGS: Final = 32
