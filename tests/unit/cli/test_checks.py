"""What `actorfw doctor` makes of facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actorfw.cli import checks
from actorfw.cli.checks import check_cluster, check_machine, no_cluster
from actorfw.cli.options import Where
from actorfw.io.certificates import validity
from actorfw.io.machine import look

DAY = 86400.0

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUR2YDCaEOqffYqT0rHs3C7T3Z7CMwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEbm9kZTAeFw0yNjExMjAyMTE3MjBaFw0yNjEyMjAyMTE3MjBa
MA8xDTALBgNVBAMMBG5vZGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQpycP9
vciGteXV0m2XaLYQSBWnQevOCHvDTvKo4vIRH9iQRnDsSpzJj1dFrzqa6w1N5haw
DuSWuwf1Snu9nHhro1MwUTAdBgNVHQ4EFgQU+ygNa/2sTzfCWqJaLh7ttl0gqBow
HwYDVR0jBBgwFoAU+ygNa/2sTzfCWqJaLh7ttl0gqBowDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiEAlJ/NLsX/mOJx/FaOwDWWT0Ec4MxOYhkqBGlc
HSlxR+QCIHHsXW346vRri45zquNM/159hf3EsG+J/EEVyOGbI/Zb
-----END CERTIFICATE-----
"""


def member(name: str, **changes: Any) -> dict[str, Any]:
    facts = {
        "id": name,
        "name": name,
        "address": f"{name}:1",
        "answered": True,
        "state": "up",
        "worker_deaths": 0,
        "ahead": 0.0,
        "unsure": 0.001,
        "python": "3.11.7",
        "packages": {"actorfw": "1", "cloudpickle": "3", "msgpack": "1", "uvloop": "1"},
        "descriptors_soft": 65536,
        "descriptors_hard": 65536,
        "descriptors_open": 20,
        "memfd": True,
        "shm_bytes": 1 << 30,
        "memory_limit": 1 << 34,
        "memory_used": 1 << 30,
        "memory_of": "this machine",
        "reaches": {},
    }
    return {**facts, **changes}


def wrong(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    found = check_cluster(rows)
    for one in found:
        if one.level != "ok":
            assert one.why, one
            assert one.do, one
    return [(one.check, one.level, one.node) for one in found if one.level != "ok"]


def test_all_is_well() -> None:
    rows = [member("a", reaches={"b": ""}), member("b", reaches={"a": ""})]
    assert wrong(rows) == []
    assert {one.check for one in check_cluster(rows)} == {"cluster", "versions", "clocks", "reachability"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"python": "3.11.9"}, [("versions", "warn", "")]),
        ({"packages": {"actorfw": "2", "cloudpickle": "2"}}, [("versions", "warn", ""), ("versions", "warn", "")]),
        ({"ahead": -2.0}, [("clocks", "warn", "b")]),
        ({"ahead": 2.0, "unsure": 1.5}, []),
        ({"ahead": None, "unsure": None}, []),
        ({"descriptors_soft": 256}, [("descriptors", "warn", "b")]),
        ({"descriptors_open": 65000}, [("descriptors", "fail", "b")]),
        ({"descriptors_soft": None}, []),
        ({"memfd": False}, [("shared memory", "warn", "b")]),
        ({"shm_bytes": 64 << 20}, [("shared memory", "warn", "b")]),
        ({"memory_used": 1 << 34}, [("memory", "warn", "b")]),
        ({"memory_limit": 0}, []),
        ({"worker_deaths": 2}, [("workers", "warn", "b")]),
        ({"reaches": {"a": "connection refused"}}, [("reachability", "fail", "b")]),
        ({"reaches": {"gone": "connection refused"}}, []),
    ],
)
def test_what_one_member_says(changes: dict[str, Any], found: list[tuple[str, str, str]]) -> None:
    usual = {"reaches": {"a": ""}}
    assert wrong([member("a", reaches={"b": ""}), member("b", **{**usual, **changes}), member("c")]) == found


def test_a_way_that_leads_only_one_way() -> None:
    rows = [member("a", reaches={"b": ""}), member("b", reaches={"a": "no answer within 2.5 s"})]
    (found,) = [one for one in check_cluster(rows) if one.level == "fail"]
    assert found.text == "can't dial a, which can dial it: no answer within 2.5 s"


def test_who_gives_no_answer() -> None:
    silent = {"id": "c", "name": "c", "address": "c:1", "answered": False}
    assert wrong([member("a"), silent]) == [("member", "fail", "c")]


def test_no_cluster_is_wrong_only_if_one_was_named() -> None:
    assert no_cluster("nobody", asked=False).level == "ok"
    assert no_cluster("nobody", asked=True).level == "fail"


def of(check: str, env: dict[str, str], where: Where | None = None) -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in check_machine(where or Where(), env) if one.check == check]


def test_this_machine(tmp_path: Path) -> None:
    found = check_machine(Where(), {"XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    names = ["versions", "uvloop", "descriptors", "shared memory", "memory", "secret", "TLS"]
    assert [one.check for one in found] == names
    facts = look()
    assert facts["packages"]["actorfw"]
    assert facts["descriptors_open"] is None or facts["descriptors_open"] > 2


def test_the_folder_where_nodes_meet(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert of("folder", env) == []
    (tmp_path / "actorfw").chmod(0o755)
    ((level, text),) = of("folder", env)
    assert (level, "others may look" in text) == ("fail", True)


def test_where_the_secret_comes_from(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    ((level, text),) = of("secret", home)
    assert (level, "none yet" in text) == ("ok", True)
    assert of("secret", {**home, "ACTORFW_SECRET": "0123456789abcdefghij"}) == [("ok", "from ACTORFW_SECRET")]
    rotating = "0123456789abcdefghij,abcdefghij0123456789"
    ((level, text),) = of("secret", {**home, "ACTORFW_SECRET": rotating})
    assert "each is accepted" in text
    assert of("secret", {**home, "ACTORFW_SECRET": "short"})[0][0] == "fail"
    path = tmp_path / "secret"
    assert of("secret", {**home, "ACTORFW_SECRET_FILE": str(path)})[0][0] == "fail"
    path.write_text("0123456789abcdefghij\n")
    path.chmod(0o600)
    named = Where(secret_file=str(path))
    assert of("secret", {**home, "ACTORFW_SECRET": "short"}, named) == [("ok", f"from {path} (--secret-file)")]
    path.chmod(0o640)
    ((level, text),) = of("secret", {**home, "ACTORFW_SECRET_FILE": str(path)})
    assert (level, text) == ("fail", f"{path} can be read by its group")


def test_variables_that_mean_nothing() -> None:
    ((level, text),) = of("environment", {"ACTORFW_SECRETFILE": "x", "ACTORFW_SEEDS": "local:x", "OTHER": "x"})
    assert (level, text) == ("warn", "ACTORFW_SECRETFILE is set, and means nothing to actorfw")


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.pem"
    path.write_text(CERTIFICATE)
    begins, ends = validity(CERTIFICATE.encode())
    assert ends - begins == 30 * DAY
    key = tmp_path / "node.key"
    key.write_text("a key")
    key.chmod(0o600)
    env = {
        f"ACTORFW_TLS_{name}": str(file) for name, file in (("CERTIFICATE", path), ("AUTHORITY", path), ("KEY", key))
    }
    for now, level in ((begins + DAY, "ok"), (ends - DAY, "warn"), (ends + 1, "fail"), (begins - 1, "fail")):
        monkeypatch.setattr(checks.time, "time", lambda now=now: now)
        assert {found for found, _ in of("TLS", env)} == {level}, now
    key.chmod(0o644)
    assert any("the key" in text for _, text in of("TLS", env))
    assert [level for level, _ in of("TLS", {"ACTORFW_TLS_KEY": str(key)})] == ["fail"]
    path.write_text("no certificate")
    assert any("is none" in text for _, text in of("TLS", env))
    assert any("can't be read" in text for _, text in of("TLS", {**env, "ACTORFW_TLS_KEY": "/no/where"}))


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "\xff"])
def test_what_is_no_certificate(text: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        validity(text.encode("latin-1"))
