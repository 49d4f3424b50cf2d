"""The files of docs/howto/deploy: they are what their tools accept, they say what the code knows, and they work here.

Kubernetes and Docker are not needed: the commands of the files run as local processes, with addresses of this machine
in the place of theirs, and Slurm's commands are stand-ins that do on one host what the real ones do on several.
"""

from __future__ import annotations

import asyncio
import configparser
import importlib.resources
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from actorfw.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "docs" / "howto" / "deploy"
COMMAND = re.compile(r"(?<![\w./-])actorfw ([a-z][^;&|>()\n]*)")
VARIABLE = re.compile(r"\bACTORFW_[A-Z_]+\b")


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))


def manifest(kind: str) -> Any:
    (found,) = (one for one in manifests() if one["kind"] == kind)
    return found


def container() -> Any:
    (found,) = manifest("StatefulSet")["spec"]["template"]["spec"]["containers"]
    return found


def compose() -> Any:
    return yaml.safe_load((FILES / "compose.yaml").read_text())


def unit() -> configparser.ConfigParser:
    class Several(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    found = configparser.ConfigParser(strict=False, interpolation=None, dict_type=Several)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(FILES / "actorfw.service")
    return found


def seconds_of(command: str, option: str) -> float:
    words = shlex.split(command)
    return float(words[words.index(option) + 1])


# -- what the tools accept


@pytest.mark.parametrize("kind", ["Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"])
def test_kubernetes_accepts_the_manifests(kind: str) -> None:
    kubernetes_validate.validate(manifest(kind), kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_manifest_would_be_noticed() -> None:
    wrong = manifest("StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_compose_accepts_its_file() -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validate(compose(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose(), "servises": {}}, schema)


def test_the_parts_of_the_manifests_fit() -> None:
    pods = manifest("StatefulSet")["spec"]
    pod = pods["template"]["spec"]
    service = manifest("Service")["spec"]
    labels = pods["template"]["metadata"]["labels"]
    assert labels == pods["selector"]["matchLabels"] == service["selector"]
    assert labels == manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert labels == manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    env = {row["name"]: row.get("value") for row in container()["env"]}
    assert env["ACTORFW_SEEDS"] == f"{manifest('Service')['metadata']['name']}:{service['ports'][0]['port']}"
    ports = {row["name"]: row["containerPort"] for row in container()["ports"]}
    assert env["ACTORFW_LISTEN"].endswith(f":{ports['actorfw']}")
    assert env["ACTORFW_HEALTH"].endswith(f":{ports['health']}")
    (mount,) = (row for row in container()["volumeMounts"] if row["name"] == "secret")
    assert env["ACTORFW_SECRET_FILE"].startswith(mount["mountPath"])
    drains = [
        seconds_of(shlex.join(container()["args"]), "--drain-timeout"),
        seconds_of(container()["lifecycle"]["preStop"]["exec"]["command"][-1], "--timeout"),
    ]
    assert max(drains) < pod["terminationGracePeriodSeconds"]


def test_who_kills_waits_longer_than_a_drain_takes() -> None:
    node = compose()["services"]["node"]
    assert seconds_of(node["command"][0], "--drain-timeout") < float(node["stop_grace_period"].removesuffix("s"))
    service = unit()["Service"]
    assert seconds_of(service["ExecStart"], "--drain-timeout") < float(service["TimeoutStopSec"])


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    service = unit()["Service"]
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    program, *_ = shlex.split(service["ExecStart"])
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "actorfw.service"
    copy.write_text((FILES / "actorfw.service").read_text().replace(program, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "actorfw" in line]) == (0, [])


@pytest.mark.parametrize("tool", [["bash", "-n"], [str(Path(sys.executable).with_name("shellcheck"))]])
def test_the_script_for_slurm_is_sound(tool: list[str]) -> None:
    done = subprocess.run([*tool, FILES / "slurm.sh"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- what the code knows


def in_shell(text: str) -> list[str]:
    """The uses of the command in lines for a shell, with 1 for what the shell would put in."""
    text = re.sub(r"(^|\s)#.*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    text = re.sub(r"\$+\((actorfw[^)]*)\)", r"; \1 ;", text)
    text = re.sub(r"\$+(\([^)]*\)|\w+|\{\w+\})", "1", text)
    return COMMAND.findall(text.replace("'", "").replace('"', ""))


def commands() -> Iterator[tuple[str, str]]:
    """Each use of the command in the files and pages, and where it stands."""
    texts = {
        "kubernetes.yaml": "\n".join(container()["lifecycle"]["preStop"]["exec"]["command"]),
        "compose.yaml": compose()["services"]["node"]["command"][0],
        "actorfw.service": unit()["Service"]["ExecStart"].removeprefix("/opt/actorfw/bin/"),
        "slurm.sh": (FILES / "slurm.sh").read_text(),
    }
    for path in (*FILES.glob("*.md"), ROOT / "docs/howto/discovery.md"):
        texts[path.name] = "\n".join(re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))
    for name, text in sorted(texts.items()):
        yield from ((name, command) for command in in_shell(text))
    yield "kubernetes.yaml", shlex.join(container()["args"])
    yield "Dockerfile", json.loads(re.findall(r"^CMD (.*)$", (FILES / "Dockerfile").read_text(), re.MULTILINE)[0])[0]


USES = list(commands())


def test_the_commands_are_found() -> None:
    assert {name for name, _ in USES} >= {
        "kubernetes.yaml", "kubernetes.md", "compose.yaml", "compose.md", "Dockerfile", "actorfw.service", "systemd.md",
        "slurm.sh", "discovery.md",
    }  # fmt: skip
    assert {command.split()[0] for _, command in USES} >= {"start", "drain", "nodes", "secret"}


@pytest.mark.parametrize(("where", "command"), USES)
def test_the_command_line_takes_each_command(where: str, command: str) -> None:
    app.parse_args(command.split(), exit_on_error=False, print_error=False)


def known_variables() -> set[str]:
    """Those that the code reads."""
    return {
        name
        for path in (ROOT / "actorfw").rglob("*.py")
        for name in re.findall(r'"(ACTORFW_[A-Z_]+)"', path.read_text())
    }


def test_each_variable_in_the_files_is_one_that_the_code_reads() -> None:
    known = known_variables()
    assert {"ACTORFW_SEEDS", "ACTORFW_LISTEN", "ACTORFW_HEALTH"} <= known
    for path in FILES.iterdir():
        assert set(VARIABLE.findall(path.read_text())) <= known, path.name


def test_each_variable_is_documented() -> None:
    documented = set(VARIABLE.findall((ROOT / "docs/reference/config.md").read_text()))
    testing = {name for name in known_variables() if name.startswith(("ACTORFW_SIM_", "ACTORFW_TEST_"))}
    internal = {"ACTORFW_TLS_"}  # a prefix
    assert known_variables() - testing - internal <= documented


# -- that it works


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Of a process that knows nothing but what a file says: no variable of ours is inherited."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACTORFW_")}
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "actorfw"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m actorfw "$@"\n')
    program.chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**inherited, "PATH": path, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path), **variables}


def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef" * 2 + "\n")
    path.chmod(0o600)
    return str(path)


async def status_of(port: int, path: str) -> int:
    """Of an HTTP answer; 0 if nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line else 0


def ports(count: int) -> list[int]:
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.real
async def test_a_pod_becomes_ready_and_its_hook_drains_it(tmp_path: Path) -> None:
    port, health = ports(2)
    fields = {"POD_IP": "127.0.0.1", "ACTORFW_NAME": "actorfw-0", "ACTORFW_NUM_CPUS": "1"}
    for row in container()["env"]:
        if "value" in row:
            value = row["value"].replace("$(POD_IP)", fields["POD_IP"]).replace("actorfw:7700", "localhost:7700")
            fields[row["name"]] = value.replace(":7700", f":{port}").replace("0.0.0.0:7780", f"127.0.0.1:{health}")
    fields["ACTORFW_SECRET_FILE"] = secret_file(tmp_path)
    env = environment(tmp_path, **fields)
    node = await asyncio.create_subprocess_exec(
        "actorfw", *container()["args"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    probe = container()["readinessProbe"]["httpGet"]["path"]
    async with asyncio.timeout(20):
        while await status_of(health, probe) != 200:
            await asyncio.sleep(0.05)
    assert await status_of(health, container()["livenessProbe"]["httpGet"]["path"]) == 200
    command = [word.replace("7700", str(port)) for word in container()["lifecycle"]["preStop"]["exec"]["command"]]
    hook = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    said, _ = await hook.communicate()
    assert (hook.returncode, said.decode().startswith("node actorfw-0 left in")) == (0, True)
    assert await asyncio.wait_for(node.wait(), 10) == 0
    assert await status_of(health, probe) == 0


@pytest.mark.real
async def test_a_container_of_compose_starts_is_healthy_and_stops(tmp_path: Path) -> None:
    service = compose()["services"]["node"]
    port, health = ports(2)
    env = environment(tmp_path, **service["environment"])
    env.update(
        ACTORFW_SEEDS=f"127.0.0.1:{port}",
        ACTORFW_LISTEN=f"0.0.0.0:{port}",
        ACTORFW_HEALTH=f"127.0.0.1:{health}",
        ACTORFW_SECRET_FILE=secret_file(tmp_path),
    )
    assert service["entrypoint"] == ["tini", "--", "sh", "-c"]
    (line,) = service["command"]
    assert "$$(hostname -i):7700" in line
    line = line.replace("$$(hostname -i):7700", f"127.0.0.1:{port}")
    node = await asyncio.create_subprocess_exec(
        "sh", "-c", line, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert node.stdout is not None
    assert (await asyncio.wait_for(node.stdout.readline(), 20)).decode() == f"127.0.0.1:{port}\n"
    kind, *check = service["healthcheck"]["test"]
    assert kind == "CMD"
    check[-1] = check[-1].replace("7780", str(health))
    checked = await asyncio.create_subprocess_exec(*check, env=env)
    assert await checked.wait() == 0
    node.terminate()
    assert await asyncio.wait_for(node.wait(), 15) == 0


@pytest.mark.real
async def test_the_unit_tells_when_it_is_up_that_it_lives_and_when_it_stops(tmp_path: Path) -> None:
    service = unit()["Service"]
    (port,) = ports(1)
    given = dict(line.split("=", 1) for line in (FILES / "environment").read_text().splitlines() if "=" in line[:20])
    assert given["ACTORFW_LISTEN"] in given["ACTORFW_SEEDS"]
    given.update(ACTORFW_LISTEN=f"127.0.0.1:{port}", ACTORFW_SEEDS=f"127.0.0.1:{port} 127.0.0.1:9")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(path)
        notified.setblocking(False)
        env = environment(
            tmp_path, **given, NOTIFY_SOCKET=path, WATCHDOG_USEC="300000", ACTORFW_SECRET_FILE=secret_file(tmp_path)
        )
        _, *arguments = shlex.split(service["ExecStart"])
        node = await asyncio.create_subprocess_exec(
            "actorfw", *arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        loop = asyncio.get_running_loop()
        heard: list[str] = []

        async def until(line: str) -> None:
            async with asyncio.timeout(20):
                while line not in (heard[-1].splitlines() if heard else ()):
                    heard.append((await loop.sock_recv(notified, 4096)).decode())

        await until("READY=1")
        assert heard[-1].splitlines()[1].startswith(f"STATUS=up at 127.0.0.1:{port}")
        await until("WATCHDOG=1")
        node.send_signal(signal.SIGTERM)
        await until("STOPPING=1")
        assert await asyncio.wait_for(node.wait(), 15) == 0


STAND_INS = {
    "scontrol": 'for host in 2 3 4; do echo "127.0.0.$host"; done',
    # As the real one: a task on each host, signals are passed on.
    "srun": """
shift
trap 'kill -TERM $tasks' TERM
tasks=
for host in 2 3 4; do
  SLURMD_NODENAME=127.0.0.$host "$@" &
  tasks="$tasks $!"
done
wait
wait
""",
}
PROGRAM = """
import sys, time
import actorfw
with actorfw.init():
    while len(rows := actorfw.get(actorfw.nodes())) < 4:
        time.sleep(0.05)
    cpus = sum(row.resources.get("CPU", 0) for row in rows)
    print(sys.argv[1], cpus, actorfw.get(actorfw.remote(sum).remote([1, 2])))
"""


@pytest.mark.real
async def test_the_job_for_slurm_runs_a_program_beside_a_node_on_each_host(tmp_path: Path) -> None:
    env = environment(
        tmp_path,
        SLURM_JOB_NODELIST="h[1-3]",
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_CPUS_PER_TASK="2",
    )
    for name, text in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    job = await asyncio.create_subprocess_exec(
        "bash", FILES / "slurm.sh", program, "said", env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(job.communicate(), 50)
    assert job.returncode == 0, err.decode()
    assert "said 6 3" in out.decode().splitlines()
    assert not list(tmp_path.glob(".actorfw-secret-*"))
