"""What the environment says in the place of arguments, and how it is told that it is wrong."""

from __future__ import annotations

import inspect

import pytest

import actorfw
from actorfw.api.environment import VARIABLES, cluster_of, completed, split_list
from actorfw.values.errors import UsageError


def test_each_variable_stands_in_for_an_argument_of_init() -> None:
    parameters = inspect.signature(actorfw.init).parameters
    for argument, _ in VARIABLES.values():
        assert parameters[argument].default is None


@pytest.mark.parametrize(
    ("variable", "text", "argument", "value"),
    [
        ("ACTORFW_LISTEN", " 10.0.0.5:7700 ", "listen", "10.0.0.5:7700"),
        ("ACTORFW_NAME", "pod-0", "name", "pod-0"),
        ("ACTORFW_LABELS", "disk=ssd, zone=a,b=", "labels", {"disk": "ssd", "zone": "a", "b": ""}),
        ("ACTORFW_NUM_CPUS", "1.5", "num_cpus", 1.5),
        ("ACTORFW_RESOURCES", "tape=2 disc=0.5", "resources", {"tape": 2.0, "disc": 0.5}),
        ("ACTORFW_OBJECT_STORE_MEMORY", "1048576", "object_store_memory", 1 << 20),
        ("ACTORFW_HOSTS", "own", "hosts", "own"),
    ],
)
def test_what_is_not_given_is_read(variable: str, text: str, argument: str, value: object) -> None:
    found = completed({}, {variable: text})
    assert found == {argument: value}
    assert type(found[argument]) is type(value)
    assert completed({argument: "given"}, {variable: text}) == {argument: "given"}
    assert completed({argument: None}, {variable: ""}) == {argument: None}


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("ACTORFW_LISTEN", "7700", "is not an address"),
        ("ACTORFW_ADVERTISE", "a.example", "is not an address"),
        ("ACTORFW_NUM_CPUS", "two", "must be a number"),
        ("ACTORFW_MEMORY", "4GiB", "must be a number"),
        ("ACTORFW_OBJECT_STORE_MEMORY", "1e9", "must be a number of bytes"),
        ("ACTORFW_LABELS", "ssd", "must be pairs KEY=VALUE"),
        ("ACTORFW_RESOURCES", "tape=many", "must be a number"),
        ("ACTORFW_HOSTS", "some", "must be 'all' or 'own'"),
    ],
)
def test_a_variable_that_is_wrong_is_named(variable: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^{variable} is '{text}': .*{why}"):
        completed({}, {variable: text})


def test_lists_have_commas_or_spaces() -> None:
    assert split_list(" a:1,b:2  c:3,\n") == ["a:1", "b:2", "c:3"]
    assert split_list("") == []


LOCAL = {"ACTORFW_SEEDS": "local:red"}


@pytest.mark.parametrize(
    ("seeds", "cluster", "environ", "found"),
    [
        (None, None, {}, ([], "default")),
        (None, None, LOCAL, (["local:red"], "red")),
        (None, "red", LOCAL, (["local:red"], "red")),
        (None, None, {"ACTORFW_SEEDS": "a:1 b:2", "ACTORFW_CLUSTER": "blue"}, (["a:1", "b:2"], "blue")),
        ([], None, {**LOCAL, "ACTORFW_CLUSTER": "blue"}, ([], "blue")),
        (["local:red"], None, {"ACTORFW_CLUSTER": "blue"}, (["local:red"], "red")),
        (["a:1", "local:red"], None, {}, (["a:1", "local:red"], "red")),
    ],
)
def test_which_cluster_is_meant(
    seeds: list[str] | None, cluster: str | None, environ: dict[str, str], found: tuple[list[str], str]
) -> None:
    assert cluster_of(seeds, cluster, environ) == found


@pytest.mark.parametrize(
    ("seeds", "cluster", "environ", "why"),
    [
        (["local:red"], "blue", {}, "seeds has \"local:red\", and cluster= says that the cluster is 'blue'"),
        (None, "blue", LOCAL, 'ACTORFW_SEEDS has "local:red", and cluster= says'),
        (None, None, {**LOCAL, "ACTORFW_CLUSTER": "blue"}, 'ACTORFW_SEEDS has "local:red", and ACTORFW_CLUSTER says'),
        (["local:red", "local:blue"], None, {}, 'seeds has "local:blue", and the seed "local:red" says'),
        (["local:"], None, {}, 'seeds has "local:", which names no cluster'),
    ],
)
def test_a_node_is_a_member_of_one_cluster(
    seeds: list[str] | None, cluster: str | None, environ: dict[str, str], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        cluster_of(seeds, cluster, environ)


@pytest.mark.real
async def test_init_reads_them_and_nodes_that_are_made_otherwise_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORFW_NAME", "only-one")
    monkeypatch.setenv("ACTORFW_LABELS", "disk=ssd")
    monkeypatch.setenv("ACTORFW_NUM_CPUS", "0")
    async with actorfw.init() as node, actorfw.Node(node.address, num_cpus=0) as other:
        (row,) = [row for row in await node.runtime.ask("nodes") if row.id == node.id]
        assert (row.name, row.labels, row.resources.get("CPU", 0)) == ("only-one", {"disk": "ssd"}, 0)
        assert other.name != "only-one"
    async with actorfw.init(name="given", num_cpus=0) as node:
        assert node.name == "given"
    monkeypatch.setenv("ACTORFW_SEEDS", "127.0.0.1:1")
    async with actorfw.LocalCluster(0, 0) as cluster:
        assert cluster.node.name != "only-one"
        assert cluster.node.seeds == []


def test_an_argument_that_is_none_is_as_if_it_was_not_given() -> None:
    made = actorfw.Node([], listen=None, hosts=None, cluster=None, num_gpus=None)._made  # type: ignore[arg-type]
    assert (made.listen, made.hosts, made.cluster) == (("127.0.0.1", 0), "all", "default")
