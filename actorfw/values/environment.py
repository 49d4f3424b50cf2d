"""`Environment`: what a task or actor wants of the process that it runs in, by the hashes of what that is made of.

It travels in the recipe of its definition. Two that ask for the same are equal and have the same key, by which workers
are told apart. Leaves to others: how folders and modules become packages (`io.packing`), and what a user may ask for
(`runtime.runtimeenv`).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

from actorfw.values.data import Data

__all__ = ["Environment"]


class Environment(Data):
    """What a process has to be like.

    Attributes:
        env_vars: (name, value), sorted.
        working_dir: the hash of a package; empty: none.
        py_modules: hashes of packages, in the order in which they are searched.
    """

    env_vars: tuple[tuple[str, str], ...] = ()
    working_dir: bytes = b""
    py_modules: tuple[bytes, ...] = ()

    @property
    def key(self) -> bytes:
        """Equal for equal environments, on all nodes."""
        return _key(self)

    @property
    def packages(self) -> tuple[bytes, ...]:
        """The hashes of all that has to be there."""
        return (*self.py_modules, self.working_dir) if self.working_dir else self.py_modules

    @property
    def modules_only(self) -> Environment | None:
        """What of it can be had inside a node's own process; None: nothing."""
        return Environment(py_modules=self.py_modules) if self.py_modules else None

    def to_wire(self) -> list[Any]:
        return [[list(pair) for pair in self.env_vars], self.working_dir, list(self.py_modules)]

    @classmethod
    def from_wire(cls, wire: Any) -> Environment:
        env_vars, working_dir, py_modules = wire
        return cls(tuple((name, value) for name, value in env_vars), bytes(working_dir), tuple(map(bytes, py_modules)))

    def __repr__(self) -> str:
        # The values may be secret.
        names = ", ".join(name for name, _ in self.env_vars)
        packages = ", ".join(digest.hex()[:8] for digest in self.packages)
        return f"<environment {self.key.hex()[:8]} variables: {names or 'none'}; packages: {packages or 'none'}>"


@lru_cache(maxsize=1024)  # it is asked for with each task
def _key(environment: Environment) -> bytes:
    return blake2b(repr(environment.to_wire()).encode(), digest_size=16).digest()
