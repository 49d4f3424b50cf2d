"""What `actorfw doctor` looks at: facts in, findings out. The facts are collected by `io.machine` here and by
`runtime.checkup` at members."""

from __future__ import annotations

import difflib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from actorfw.api.environment import VARIABLES
from actorfw.cli.options import Where
from actorfw.cli.tables import size
from actorfw.io.machine import look
from actorfw.io.rendezvous import FolderRendezvous, rendezvous_folder
from actorfw.io.secrets import exposed_to, load_secrets, secret_path
from actorfw.values.errors import UsageError

__all__ = ["Finding", "check_cluster", "check_machine", "no_cluster", "wrong_secret"]

_FEW_DESCRIPTORS: Final = 4096
_SMALL_SHM: Final = 256 << 20
_CLOCK_SECONDS: Final = 1.0
_FULL: Final = 0.9
_DAY: Final = 86400.0
_EXPIRES_SOON: Final = 14 * _DAY

_KNOWN: Final = frozenset(VARIABLES) | {
    f"ACTORFW_{name}"
    for name in (
        "SEEDS", "CLUSTER", "SECRET", "SECRET_FILE", "CONFIG", "HEALTH", "PYTHON",
        "TLS_CERTIFICATE", "TLS_KEY", "TLS_AUTHORITY",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, in a word.
        level: "ok", "warn" or "fail".
        text: what was found.
        node: the member that it is about; "" for this machine or the whole cluster.
        why: why it matters.
        do: what to do about it.
    """

    check: str
    level: Literal["ok", "warn", "fail"]
    text: str
    node: str = ""
    why: str = ""
    do: str = ""


def check_machine(where: Where, environ: Mapping[str, str] | None = None) -> list[Finding]:
    """This machine, and what this user has set."""
    env = os.environ if environ is None else environ
    facts = look()
    return [
        _versions(facts),
        _uvloop(facts),
        *_descriptors(facts, ""),
        _shared_memory(facts, ""),
        _memory(facts, ""),
        *_folder(env),
        _secret(where, env),
        *_tls(where, env),
        *_variables(env),
    ]


def check_cluster(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What members say of themselves and each other."""
    there = [row for row in rows if row["answered"]]
    found = [Finding("cluster", "ok", f"{len(rows)} member{'s' * (len(rows) != 1)}, asked by way of {rows[0]['name']}")]
    found += [
        Finding(
            "member",
            "fail",
            "it gives no answer",
            node=row["name"],
            why="Whoever waits for what it has waits longer; if it stays silent it will be declared dead.",
            do=f"See whether its process at {row['address']} stands still (stopped, swapping, a blocked loop) or its"
            " network does.",
        )
        for row in rows
        if not row["answered"]
    ]
    found += _same_versions(there)
    found += _clocks(there)
    found += _reachable(there)
    for row in there:
        found += [one for one in _descriptors(row, row["name"]) if one.level != "ok"]
        found += [one for one in (_shared_memory(row, row["name"]), _memory(row, row["name"])) if one.level != "ok"]
        if row["worker_deaths"]:
            found.append(
                Finding(
                    "workers",
                    "warn",
                    f"{row['worker_deaths']} of its worker processes died",
                    node=row["name"],
                    why="A task whose worker dies runs again, or fails with WorkerDiedError.",
                    do="Look into its log: a segmentation fault, os._exit, or the kernel for want of memory.",
                )
            )
    return found


def no_cluster(error: str, *, asked: bool) -> Finding:
    """None was reached: wrong if one was named."""
    if not asked:
        return Finding("cluster", "ok", "none of yours runs on this machine; --seed HOST:PORT checks another one")
    return Finding(
        "cluster",
        "fail",
        error,
        why="Nothing can join a cluster by an address at which nobody answers.",
        do="See that the address is right, its node runs, and no firewall is in between (nc -vz HOST PORT).",
    )


def wrong_secret(error: str) -> Finding:
    """It is there, and its secret is another one."""
    return Finding(
        "cluster",
        "fail",
        error,
        why="Nodes of one cluster prove to each other that they know the same secret.",
        do="Give its secret: --secret-file PATH, or ACTORFW_SECRET_FILE.",
    )


# -- this machine ------------------------------------------------------------------------------------------------------


def _versions(facts: Mapping[str, Any]) -> Finding:
    packages = ", ".join(f"{name} {version or 'not there'}" for name, version in facts["packages"].items())
    return Finding("versions", "ok", f"Python {facts['python']}, {packages}")


def _uvloop(facts: Mapping[str, Any]) -> Finding:
    if facts["packages"]["uvloop"]:
        return Finding("uvloop", "ok", "installed")
    return Finding(
        "uvloop",
        "warn",
        "not installed",
        why="Nodes then run on asyncio's own loop: calls between nodes take about twice the CPU.",
        do="pip install uvloop",
    )


def _descriptors(facts: Mapping[str, Any], node: str) -> list[Finding]:
    soft, hard, there = facts["descriptors_soft"], facts["descriptors_hard"], facts["descriptors_open"]
    if soft is None:
        return [Finding("descriptors", "ok", "no limit", node=node)]
    text = f"{there} open, limit {soft}" + (f" (up to {hard} may be asked for)" if hard != soft else "")
    if there is not None and there > _FULL * soft:
        return [
            Finding(
                "descriptors",
                "fail",
                text,
                node=node,
                why="Without one left a node can neither take connections nor start workers.",
                do="Raise the limit before it is started: ulimit -n 65536, or LimitNOFILE= in its systemd unit.",
            )
        ]
    if soft < _FEW_DESCRIPTORS:
        return [
            Finding(
                "descriptors",
                "warn",
                text,
                node=node,
                why="Each peer takes one, each worker some, each file and request of your program one more.",
                do="Raise the limit before a node is started: ulimit -n 65536, or LimitNOFILE= in its systemd unit.",
            )
        ]
    return [Finding("descriptors", "ok", text, node=node)]


def _shared_memory(facts: Mapping[str, Any], node: str) -> Finding:
    shm = facts["shm_bytes"]
    if not facts["memfd"]:
        return Finding(
            "shared memory",
            "warn",
            "there is no memfd on this system",
            node=node,
            why="Large values are then copied to each process that reads them.",
            do="Use Linux where large values are shared between processes.",
        )
    if shm is not None and shm < _SMALL_SHM:
        return Finding(
            "shared memory",
            "warn",
            f"memfd is there; /dev/shm has {size(shm)} only",
            node=node,
            why="actorfw itself does not use /dev/shm, but libraries in your tasks may (PyTorch's loaders do).",
            do="In a container: docker run --shm-size=1g, or an emptyDir with medium: Memory at /dev/shm.",
        )
    return Finding("shared memory", "ok", "memfd is there" + (f", /dev/shm has {size(shm)}" if shm else ""), node=node)


def _memory(facts: Mapping[str, Any], node: str) -> Finding:
    limit, used, of = facts["memory_limit"], facts["memory_used"], facts["memory_of"]
    if not limit:
        return Finding("memory", "ok", "its limit is not known here", node=node)
    text = f"{size(used)} of {size(limit)} in use ({of})"
    if used > _FULL * limit:
        return Finding(
            "memory",
            "warn",
            text,
            node=node,
            why="Short of memory, a node stops the tasks that have most of it, and the kernel kills processes.",
            do="Offer less with --num-cpus and --memory, or give the machine or its control group more.",
        )
    return Finding("memory", "ok", text, node=node)


def _folder(env: Mapping[str, str]) -> list[Finding]:
    """Said only if it is wrong: then no command finds nodes of this machine, and `actorfw start` does not start."""
    try:
        FolderRendezvous(rendezvous_folder(env), "default").mates()
    except UsageError as error:
        return [
            Finding(
                "folder",
                "fail",
                str(error),
                why="Nodes and commands of one user on one machine find each other by it.",
                do="Make its parent writable for this user, or set XDG_RUNTIME_DIR to a folder of your own.",
            )
        ]
    return []


# -- secret and TLS ----------------------------------------------------------------------------------------------------


def _secret(where: Where, env: Mapping[str, str]) -> Finding:
    path: str | None
    if where.secret_file is not None:
        path, origin, chosen = where.secret_file, "--secret-file", {"ACTORFW_SECRET_FILE": where.secret_file}
    elif env.get("ACTORFW_SECRET"):
        path, origin, chosen = None, "ACTORFW_SECRET", dict(env)
    elif env.get("ACTORFW_SECRET_FILE"):
        path, origin, chosen = env["ACTORFW_SECRET_FILE"], "ACTORFW_SECRET_FILE", dict(env)
    else:
        path, origin, chosen = secret_path(env), "your own, for this machine only", dict(env)
        if not os.path.exists(path):
            return Finding("secret", "ok", f"none yet: the first node writes one to {path}, for this machine only")
    where_from = origin if path is None else f"{path} ({origin})"
    try:
        count = len(load_secrets(environ=chosen))
    except UsageError as error:
        return Finding(
            "secret",
            "fail",
            str(error),
            why="A node without a usable secret does not start.",
            do="Make one: actorfw secret --file PATH, and name it with ACTORFW_SECRET_FILE.",
        )
    readers = "" if path is None else exposed_to(path)
    if readers:
        return Finding(
            "secret",
            "fail",
            f"{path} can be read by {readers}",
            why="Whoever knows the secret can run code on every node.",
            do=f"chmod 600 {path}. If others could read it, make a new one: actorfw secret --file PATH.",
        )
    both = "; while rotating, the first is used and each is accepted" if count > 1 else ""
    return Finding("secret", "ok", f"from {where_from}{both}")


def _tls(where: Where, env: Mapping[str, str]) -> list[Finding]:
    paths = {
        "certificate": where.tls_certificate or env.get("ACTORFW_TLS_CERTIFICATE"),
        "key": where.tls_key or env.get("ACTORFW_TLS_KEY"),
        "authority": where.tls_authority or env.get("ACTORFW_TLS_AUTHORITY"),
    }
    if not any(paths.values()):
        return [Finding("TLS", "ok", "not used: frames between machines are authenticated, not encrypted")]
    do = "Name certificate, key and authority, PEM: --tls-certificate and so on, or ACTORFW_TLS_CERTIFICATE and so on."
    why = "With TLS, nodes that can't prove who they are by a certificate are not let in."
    missing = [name for name, path in paths.items() if not path]
    if missing:
        return [Finding("TLS", "fail", f"the {' and the '.join(missing)} are not named", why=why, do=do)]
    found: list[Finding] = []
    for name, path in paths.items():
        assert path is not None
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            found.append(Finding("TLS", "fail", f"the {name} {path} can't be read: {error.strerror}", why=why, do=do))
            continue
        if name == "key":
            readers = exposed_to(path)
            if readers:
                text = f"the key {path} can be read by {readers}"
                found.append(Finding("TLS", "fail", text, why=why, do=f"chmod 600 {path}"))
        else:
            found.append(_validity(name, path, data, time.time()))
    return found


def _validity(name: str, path: str, data: bytes, now: float) -> Finding:
    from actorfw.io.certificates import validity

    why = "A node whose certificate is not valid is refused by all others."
    try:
        begins, ends = validity(data)
    except ValueError as error:
        return Finding("TLS", "fail", f"the {name} {path} is none: {error}", why=why, do="Name a certificate, PEM.")
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
    if now >= ends or now < begins:
        when = f"was valid until {until}" if now >= ends else "is not valid yet"
        return Finding(
            "TLS", "fail", f"the {name} {path} {when}", why=why, do="Have a new one signed, or set the clock."
        )
    if ends - now < _EXPIRES_SOON:
        days = (ends - now) / _DAY
        text = f"the {name} {path} is valid for {days:.0f} more day{'s' * (round(days) != 1)}, until {until}"
        return Finding(
            "TLS", "warn", text, why=why, do="Have a new one signed and put it in its place: nodes read it anew."
        )
    return Finding("TLS", "ok", f"the {name} is valid until {until}")


def _variables(env: Mapping[str, str]) -> list[Finding]:
    found: list[Finding] = []
    for name in sorted(env):
        if name.startswith("ACTORFW_") and name not in _KNOWN:
            close = difflib.get_close_matches(name, _KNOWN, 1)
            do = f"Did you mean {close[0]}?" if close else f"Those that do something: {', '.join(sorted(_KNOWN))}."
            found.append(
                Finding("environment", "warn", f"{name} is set, and means nothing to actorfw", do=do, why="A misspelt"
                        " variable is one that is not set.")
            )  # fmt: skip
    return found


# -- members -----------------------------------------------------------------------------------------------------------


def _same_versions(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found: list[Finding] = []
    facts = {
        "python": {row["name"]: row["python"] for row in rows},
        **{package: {row["name"]: row["packages"][package] for row in rows} for package in ("actorfw", "cloudpickle")},
    }
    whys = {
        "python": "Functions travel as bytecode: of different versions they may break.",
        "actorfw": "Nodes of different versions may not know each other's messages.",
        "cloudpickle": "What one version has packed another may not unpack.",
    }
    for what, of in facts.items():
        counts = Counter(of.values())
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            others = ", ".join(f"{name} has {version or 'none'}" for name, version in of.items() if version != usual)
            found.append(
                Finding(
                    "versions",
                    "warn",
                    f"{what} is not the same everywhere: most have {usual}, {others}",
                    why=whys[what],
                    do="Install the same version on all, and restart the nodes one by one.",
                )
            )
    return found or [Finding("versions", "ok", "the same Python, actorfw and cloudpickle on all members")]


def _clocks(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = [
        Finding(
            "clocks",
            "warn",
            f"its clock is {abs(row['ahead']):.1f} s {'ahead' if row['ahead'] > 0 else 'behind'}"
            f" (give or take {row['unsure']:.3f} s)",
            node=row["name"],
            why="Deadlines and leases don't depend on it; ages, logs, events and certificates do.",
            do="Have it set by NTP (chronyd, systemd-timesyncd).",
        )
        for row in rows
        if row["ahead"] is not None and abs(row["ahead"]) - row["unsure"] > _CLOCK_SECONDS
    ]
    most = max((abs(row["ahead"]) + row["unsure"] for row in rows if row["ahead"] is not None), default=0.0)
    return found or [Finding("clocks", "ok", f"within {max(most, 0.001):.3f} s of each other")]


def _reachable(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    names = {row["id"]: row["name"] for row in rows}
    reaches = {(row["id"], other): why for row in rows for other, why in row["reaches"].items()}
    found: list[Finding] = []
    for (one, other), why_not in reaches.items():
        if not why_not or other not in names:
            continue
        asymmetric = reaches.get((other, one)) == ""
        text = f"can't dial {names[other]}" + (", which can dial it" if asymmetric else "") + f": {why_not}"
        found.append(
            Finding(
                "reachability",
                "fail",
                text,
                node=names[one],
                why="A link that breaks is made anew by whichever side can; and newcomers must be dialled back.",
                do="Let each node reach each other one at the address that `actorfw nodes` shows: open the port both"
                " ways, or start it with another --advertise.",
            )
        )
    return found or [Finding("reachability", "ok", f"all {len(reaches)} ways between members can be dialled")]
