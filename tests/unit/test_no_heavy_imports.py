"""`import actorfw` loads what every program needs and nothing that only some do.

How long it takes is a matter for the benchmarks; what it loads is not a matter of the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import actorfw

# Loaded on use: HTTP doors, the shell, process statistics; numpy is the user's own.
HEAVY = {"aiohttp", "cyclopts", "numpy", "psutil", "rich"}


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after the statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": str(Path(actorfw.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", code]
    return set(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.split())


def test_import_actorfw_loads_no_heavy_package() -> None:
    loaded = loaded_by("import actorfw")
    assert "actorfw" in loaded
    assert loaded & HEAVY == set()


def test_import_actorfw_writes_no_methods_for_classes_that_nobody_uses() -> None:
    code = (
        "import dataclasses; plain = dataclasses.dataclass; made = []; "
        "dataclasses.dataclass = lambda *a, **k: lambda cls: made.append(cls.__name__) or plain(*a, **k)(cls); "
        "import actorfw; assert set(made) <= {'Config', 'NodeAffinity', 'Profile', 'Wait'}, made; "
        "actorfw.EventsDropped(1); assert made[-1] == 'EventsDropped', made"
    )
    loaded_by(code)


def test_a_heavy_package_would_be_noticed() -> None:
    assert "rich" in loaded_by("import rich.table")
