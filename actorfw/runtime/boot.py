"""How the interpreter of a zygote finds this package, and no other of its name."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["PACKAGE_FILE", "PROGRAM"]

PACKAGE_FILE: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__init__.py")
"""Where the package stands."""

# The package may stand where only the parent's sys.path leads (a checkout, a script's folder). That folder must not
# come before the standard library, so the package is loaded by its file.
PROGRAM: Final = """\
import sys
from importlib import util
control, parent, file = sys.argv[1:]
del sys.argv[1:]
spec = util.find_spec("actorfw")
if spec is None or spec.origin != file:
    import os
    folder = os.path.dirname(file)
    spec = util.spec_from_file_location("actorfw", file, submodule_search_locations=[folder])
    sys.modules["actorfw"] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if os.path.dirname(folder) not in sys.path:
        sys.path.append(os.path.dirname(folder))
from actorfw.runtime.worker.zygote import main
main(int(control), int(parent))
"""
"""For `python -c`, with the control descriptor, the parent's process id and `PACKAGE_FILE` as its arguments."""
