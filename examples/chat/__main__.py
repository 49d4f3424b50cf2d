"""Run the chat.

    python -m examples.chat                       # three processes behind http://localhost:8080
    python -m examples.chat --processes 1 --port 8081    # one more, in another terminal: it joins them

The processes find each other by the name of their cluster and need nothing else: no broker, no database. They share the
port; kill one of them (kill -9), and those who were connected to it go on with another.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence

from aiohttp import web

from .web import application


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--cluster", default="chat", help="processes with the same name share their rooms")
    options = parser.parse_args(argv)
    if options.processes == 1:
        app = application(seeds=f"local:{options.cluster}", cluster=options.cluster, num_cpus=1)
        # Processes may share a port: whoever connects gets one of them.
        web.run_app(app, host=options.host, port=options.port, reuse_port=True, access_log=None, shutdown_timeout=10)
        return 0
    return several(
        options.processes, ["--host", options.host, "--port", str(options.port), "--cluster", options.cluster]
    )


def several(count: int, arguments: list[str]) -> int:
    """Run so many processes, until Ctrl-C or SIGTERM ends them: one after another, so that rooms can move on."""
    command = [sys.executable, "-m", "examples.chat", "--processes", "1", *arguments]
    # Ctrl-C is for this process only, which then tells them.
    children = [subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0) for _ in range(count)]
    print(
        f"http://{arguments[1]}:{arguments[3]}, processes {', '.join(str(child.pid) for child in children)}", flush=True
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for child in children:
            child.wait()
    except KeyboardInterrupt:
        for child in children:
            child.terminate()
            child.wait()
    return 0 if {child.returncode for child in children} <= {0, -signal.SIGKILL} else 1


if __name__ == "__main__":
    sys.exit(main())
