"""The project's chores. `nox` alone runs lint, types and tests; CONTRIBUTING.md says what each session does."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True

PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """One call of pip for the package and the dependency groups of pyproject.toml that a session needs."""
    session.install(*(["."] if package else []), *nox.project.dependency_groups(PROJECT, *groups))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, and the floors: imports point down."""
    install(session, "lint", package=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict and pyright strict; in tests/typing also the lines that they must reject."""
    install(session, "types", "test")
    session.run("mypy", "--strict", "actorfw", "examples")
    session.run("pyright", "--pythonpath", f"{session.bin}/python", "actorfw", "examples")
    session.run("pytest", "tests/typing")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, examples and code blocks of the docs included; its files in up to four processes."""
    install(session, "test")
    shared = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]
    session.run("pytest", "--ignore=tests/typing", *shared, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, without a warning, and every code block of README and docs."""
    install(session, "docs", "test")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "tests/test_docs.py", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example in development mode, warnings as errors, nothing on stderr, its result checked."""
    install(session, "test")
    session.run("pytest", "tests/test_examples.py", *session.posargs)


@nox.session
def sim(session: nox.Session) -> None:
    """The models with their larger bounds, and 2,000 seeds of whole nodes, on all cores: `-- SEEDS PROCESSES`."""
    install(session, "test")
    session.run("python", "-m", "tests.sim.shards", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """A million bad inputs: handshake, frames, values and links, from outside and from a peer: `-- TARGET ...`."""
    install(session, "test", "fuzz")
    session.run("python", "-m", "tests.fuzz.run", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Ten nodes in network namespaces, one cut off, a hundred times: who knows how soon. Needs root."""
    install(session)
    session.run("python", "-m", "tests.soak.cut_off", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Two minutes of killing and starting nodes under load; every call is accounted for, and nothing may grow."""
    install(session)
    session.run("python", "-m", "tests.soak.chaos", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The measurements, each beside its raw limit and competitor; `-- --markdown FILE` puts the figures into a page.

    `-- --against ray,dask,xoscar,futures,multiprocessing` measures these, too, in environments made for them;
    `-- --compare FILE` says what has changed since the run that `--json FILE` wrote down.
    """
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)
