"""`Config`: the knobs of a node, each with its unit, range and the reason for its default.

Leaves out what `init()` takes as arguments of its own (addresses, resources, secrets): those say *who* a node is,
these say how patient it is and how much it may hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Literal, cast

from actorfw.values.errors import UsageError

__all__ = ["Config"]


def _eighth_of_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
    except (ValueError, OSError, AttributeError):  # no such name on this platform
        return 1 << 30


def _worker_limit() -> int:
    return 64 + (os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How patient a node is and how much it may hold. All spans in seconds, all sizes in bytes.

    Args:
        profile: which network this is: "lan" (one machine or data centre), "local" (tests that can't wait), "wan".
            It says how soon a silent peer is suspected and declared dead, and whether a refused connection counts.
        partition: what names do when the cluster splits: "ap" serves them on both sides, "majority" only where most of
            the `voters` are; elsewhere requests fail, and actors that have names begin no calls.
        voters: names of the three or five nodes that vote when `partition` is "majority"; the same at all nodes.
        join_timeout: how long `init()` tries its seeds before it raises.
        link_patience: how long a link may stay broken before calls over it fail; the peer may be alive all the same.
        stall_limit: how long a peer whose process stands still, while its machine answers, is waited for before it is
            declared dead. Longer than anything that holds up a loop now and then: a notebook's cell, pickling 100 MB.
        borrow_grace: how long what a dead node borrowed is kept, so that those it passed it on to can register.
        max_connections: connections of this node, to peers and of those who want to be; a node has one with each peer
            that it talks to (default 4096).
        max_outbox: bytes that may wait on this node to be sent (default an eighth of memory).
        max_workers: worker processes at most, those blocked in `get()` included (default 64 + cores).
        max_lineage: bytes of finished tasks and their arguments that are kept to make lost results again; past that the
            oldest results can't be (default 64 MiB, some 60,000 tasks with small arguments).
        spill_folder: where objects go that `object_store_memory` has no room for: a folder of this machine (default:
            the system's one for temporary files, in a folder of the node's own) or any URL that fsspec knows.
        spill_limit: bytes that objects may take there (default: all but a twentieth of the disk).
        package_limit: bytes that one folder or module of a `runtime_env` may have, made here or fetched (100 MiB).
        package_cache: bytes that those may take on this user's disk that nobody uses (4 GiB).
        room_timeout: how long whoever makes an object waits for room before `ObjectStoreFullError`.
        memory_threshold: the share of the machine's or control group's memory in use from which worker processes are
            stopped, the newest that can run again first; 1 never does.
        memory_interval: seconds between two looks at that.
        tls_certificate: as of `TLS`, where neither `init(tls=...)` nor the environment says it; so are the next two.
        tls_key: likewise.
        tls_authority: likewise.

    Raises:
        UsageError: a value of the wrong type or out of range; the message names the field.
    """

    profile: Literal["lan", "local", "wan"] = "lan"
    partition: Literal["ap", "majority"] = "ap"
    voters: tuple[str, ...] = ()
    join_timeout: float = 30.0
    link_patience: float = 10.0
    stall_limit: float = 30.0
    borrow_grace: float = 15.0
    max_connections: int = 4096
    max_outbox: int = field(default_factory=_eighth_of_memory)
    max_workers: int = field(default_factory=_worker_limit)
    max_lineage: int = 64 * 1024 * 1024
    spill_folder: str | None = None
    spill_limit: int | None = None
    package_limit: int = 100 * 1024 * 1024
    package_cache: int = 4 * 1024 * 1024 * 1024
    room_timeout: float = 30.0
    memory_threshold: float = 0.95
    memory_interval: float = 0.25
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_authority: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("profile", ("lan", "local", "wan")), ("partition", ("ap", "majority"))):
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"Config.{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
        for name in (
            "join_timeout",
            "link_patience",
            "stall_limit",
            "borrow_grace",
            "room_timeout",
            "memory_interval",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UsageError(f"Config.{name} is {value!r}; it must be a number of seconds above 0")
        threshold = cast("object", self.memory_threshold)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
            raise UsageError(f"Config.memory_threshold is {threshold!r}; it must be a number above 0, 1 at most")
        folder = cast("object", self.spill_folder)
        if folder is not None and (not isinstance(folder, str) or not folder):
            raise UsageError(f"Config.spill_folder is {folder!r}; it must be the path of a folder, or a URL")
        for name in ("max_connections", "max_outbox", "max_workers", "spill_limit", "package_limit", "package_cache"):
            value = getattr(self, name)
            if name == "spill_limit" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"Config.{name} is {value!r}; it must be an integer above 0")
        voters = cast("object", self.voters)
        if not isinstance(voters, tuple) or not all(isinstance(v, str) for v in cast("tuple[object, ...]", voters)):
            raise UsageError(f"Config.voters is {self.voters!r}; it must be a tuple of node names")
        different = len(set(self.voters))
        if self.partition == "majority" and (different not in (3, 5) or different < len(self.voters)):
            raise UsageError(
                f'Config.partition="majority" needs 3 or 5 different node names as voters; they are {self.voters!r}'
            )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Config:
        """Read a TOML file whose top-level keys are the fields of this class.

        Raises:
            UsageError: the file can't be read, or has a key that is no field.
        """
        import tomllib  # few programs read such a file

        try:
            with open(path, "rb") as file:
                data = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"the configuration file {os.fspath(path)} can't be read: {why}") from error
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                options = ", ".join(known)
                raise UsageError(f"{os.fspath(path)} sets {key!r}, which is no option; the options are {options}")
        if "voters" in data and isinstance(data["voters"], list):
            data["voters"] = tuple(cast("list[str]", data["voters"]))
        return cls(**data)

    @classmethod
    def from_environment(cls) -> Config:
        """The file that `ACTORFW_CONFIG` names, or the defaults."""
        path = os.environ.get("ACTORFW_CONFIG")
        return cls.from_file(path) if path else cls()
