"""Definitions by reference and by value, in one process and (marked `real`) between processes started in every way."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import math
import os
import subprocess
import sys
import textwrap
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from actorfw.values.errors import SerializationError
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
from actorfw.wire.payload import Packed

BY_REFERENCE, BY_VALUE = 0, 1


def kind_of(table: CodeTable, code: bytes) -> int:
    kind: int = msgpack.unpackb(table.get(code))[0]
    return kind


def sent(table: CodeTable, code: bytes, host: str = "host") -> tuple[CodeTable, Any]:
    """Another process's table, as far as that can be had in this one, and what it loads."""
    other = CodeTable(host)
    assert other.add(table.get(code)) == code
    return other, other.load(code)


class Main:
    """A namespace that is `__main__` to what is defined in it: nothing in it can be imported."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, source: str) -> None:
        exec(compile(textwrap.dedent(source), "<cell>", "exec"), self.names)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


@pytest.fixture
def main() -> Main:
    return Main()


@pytest.fixture
def table() -> CodeTable:
    return CodeTable("host")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], types.ModuleType]]:
    """Writes modules into a folder of the import path, and imports them."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, source: str) -> types.ModuleType:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(source))
        made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


# --- by reference


def test_what_every_interpreter_finds_goes_by_name_alone(table: CodeTable) -> None:
    for obj in (json.dumps, math.sqrt, json.JSONDecoder, len):
        code = table.define(obj)
        kind, body, where = msgpack.unpackb(table.get(code))
        assert (kind, body[1], where) == (BY_REFERENCE, obj.__qualname__, None)
        assert sent(table, code)[1] is obj
        assert table.cwd_of(code) is None


def test_the_same_definition_has_the_same_hash_and_blob_everywhere() -> None:
    one, two = CodeTable("host"), CodeTable("host")
    assert one.define(json.dumps) == two.define(json.dumps)
    assert len(one.define(json.dumps)) == 16


def test_what_stands_on_our_path_brings_the_path(table: CodeTable, modules: Any, tmp_path: Path) -> None:
    module = modules("afw_onpath", "def f(): return 1\nclass C:\n    class D: pass\n")
    code = table.define(module.f)
    kind, body, where = msgpack.unpackb(table.get(code))
    assert (kind, body) == (BY_REFERENCE, ["afw_onpath", "f", 0])
    assert str(tmp_path) in where[3]
    assert all(os.path.isabs(entry) for entry in where[3])
    assert table.cwd_of(code) == os.getcwd()
    assert kind_of(table, table.define(module.C.D)) == BY_REFERENCE


def test_the_receiver_appends_what_its_path_lacks(
    table: CodeTable, modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = modules("afw_append", "def f(): return 1\n")
    code = table.define(module.f)
    path = [entry for entry in sys.path if entry != str(tmp_path)]
    monkeypatch.setattr(sys, "path", list(path))
    monkeypatch.delitem(sys.modules, "afw_append")
    other, loaded = sent(table, code)
    assert loaded() == 1
    assert sys.path[: len(path)] == path  # never in front of what is there
    assert str(tmp_path) in sys.path[len(path) :]
    assert other.cwd_of(code) == os.getcwd()


def test_paths_do_not_travel_to_other_hosts(
    table: CodeTable, modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = modules("afw_elsewhere", "def f(): return 1\n")
    code = table.define(module.f)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "afw_elsewhere")
    with pytest.raises(SerializationError) as caught:
        sent(table, code, host="another host")
    assert "afw_elsewhere" in str(caught.value)
    assert "does not travel to other hosts" in str(caught.value)
    assert str(tmp_path) not in sys.path
    other = CodeTable("another host")
    other.add(table.get(code))
    assert other.cwd_of(code) is None


def test_through_a_wrapper(table: CodeTable, modules: Any) -> None:
    module = modules(
        "afw_wrapped",
        """
        import functools
        class Remote:
            def __init__(self, f): functools.update_wrapper(self, f)
        def inner(): return 1
        inner = Remote(Remote(inner))
        """,
    )
    function = module.inner.__wrapped__.__wrapped__
    code = table.define(function, owner=module.inner)
    assert msgpack.unpackb(table.get(code))[1] == ["afw_wrapped", "inner", 2]
    assert sent(table, code)[1] is function
    codec = Codec(table)
    assert codec.unpack(codec.pack([function]))[0] is function


def test_a_wrapper_under_another_name(table: CodeTable, modules: Any) -> None:
    module = modules(
        "afw_renamed",
        """
        import types
        f = types.SimpleNamespace(__wrapped__=lambda: 1, __module__=__name__, __qualname__="f")
        """,
    )
    assert kind_of(table, table.define(module.f.__wrapped__)) == BY_VALUE
    code = CodeTable("host").define(module.f.__wrapped__, owner=module.f)
    fresh = CodeTable("host")
    code = fresh.define(module.f.__wrapped__, owner=module.f)
    assert msgpack.unpackb(fresh.get(code))[1] == ["afw_renamed", "f", 1]


def test_an_attribute_that_became_something_else_goes_by_value(table: CodeTable, modules: Any) -> None:
    module = modules("afw_changed", "def f(): return 1\n")
    old = module.f
    assert kind_of(table, table.define(old)) == BY_REFERENCE
    module.f = lambda: 2
    code = table.define(old)
    assert kind_of(table, code) == BY_VALUE
    assert sent(table, code)[1]() == 1


def test_a_module_that_the_other_side_would_find_elsewhere_goes_by_value(
    table: CodeTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A user's own sched.py in the working folder, in front of the standard library's.
    (tmp_path / "sched.py").write_text("def f(): return 'mine'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    importlib.invalidate_caches()
    import sched

    mine: Any = sched
    try:
        code = table.define(mine.f)
        assert kind_of(table, code) == BY_VALUE
        assert sent(table, code)[1]() == "mine"
    finally:
        sys.modules.pop("sched", None)


def test_a_module_without_a_file_goes_by_value(table: CodeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("afw_made_up")
    monkeypatch.setitem(sys.modules, "afw_made_up", module)
    exec("def f(): return g()\ndef g(): return 3\nclass C: pass", module.__dict__)
    for name in ("f", "C"):
        assert kind_of(table, table.define(module.__dict__[name])) == BY_VALUE
    assert sent(table, table.define(module.__dict__["f"]))[1]() == 3


def test_packages_and_submodules_are_found(table: CodeTable, modules: Any, tmp_path: Path) -> None:
    (tmp_path / "afw_package").mkdir()
    (tmp_path / "afw_package" / "__init__.py").touch()
    sub = modules("afw_package.sub", "def f(): return 1\n")
    assert kind_of(table, table.define(sub.f)) == BY_REFERENCE
    namespace = modules("afw_namespace.sub", "def f(): return 1\n")
    assert kind_of(table, table.define(namespace.f)) == BY_REFERENCE
    for name in ("afw_package", "afw_namespace"):
        sys.modules.pop(name, None)


# --- by value


def test_main_lambdas_closures_and_local_classes_go_by_value(table: CodeTable, main: Main) -> None:
    main.run("def f(x): return x + one\none = 1\nclass C:\n    def m(self): return one")
    offset = 5

    def closure(x: int) -> int:
        return x + offset

    nameless: Callable[[int], int] = lambda x: x + 1  # noqa: E731
    for obj in (main["f"], nameless, closure):
        code = table.define(obj)
        assert kind_of(table, code) == BY_VALUE
        loaded = sent(table, code)[1]
        assert loaded is not obj
        assert loaded(1) == obj(1)
    assert sent(table, table.define(main["C"]))[1]().m() == 1


def test_defining_again_is_the_same_until_something_changes(table: CodeTable, main: Main) -> None:
    main.run("def f(): return 1")
    assert table.define(main["f"]) == table.define(main["f"])


CHANGES = {
    "a global": ("x = 1\ndef f(): return x", "x = 2"),
    "a helper": ("def g(): return 1\ndef f(): return g()", "def g(): return 2"),
    "a helper's global": ("x = 1\ndef g(): return x\ndef f(): return g()", "x = 2"),
    "a name that came later": (
        "def f():\n    try: return g()\n    except NameError: return 1",
        "def g(): return 2",
    ),
    "a name that became None": ("def g(): return 1\ndef f(): return 1 if g else 2", "g = None"),
    "a method's global": ("x = 1\nclass C:\n    def m(self): return x\ndef f(): return C().m()", "x = 2"),
    "a method": ("class C:\n    def m(self): return 1\ndef f(): return C().m()", "C.m = lambda self: 2"),
    "a new method": (
        "class C: pass\ndef f(): return C().m() if hasattr(C, 'm') else 1",
        "C.m = lambda self: 2",
    ),
    "a property's global": (
        "x = 1\nclass C:\n    @property\n    def p(self): return x\ndef f(): return C().p",
        "x = 2",
    ),
    "a static method's global": (
        "x = 1\nclass C:\n    @staticmethod\n    def s(): return x\ndef f(): return C.s()",
        "x = 2",
    ),
    "a base class's method": (
        "class A:\n    def m(self): return 1\nclass C(A): pass\ndef f(): return C().m()",
        "A.m = lambda self: 2",
    ),
    "the class of an instance": (
        "class C:\n    def m(self): return 1\nc = C()\ndef f(): return c.m()",
        "C.m = lambda self: 2",
    ),
    "a wrapped helper": (
        "import functools\nx = 1\n@functools.lru_cache\ndef g(): return x\ndef f(): return g()",
        "x = 2; g.cache_clear()",
    ),
    "a nested function's global": ("x = 1\ndef f():\n    def g(): return x\n    return g()", "x = 2"),
    "a closure variable": (
        "def make():\n    x = 1\n    def change(): nonlocal x; x = 2\n    def f(): return x\n    return f, change\n"
        "f, change = make()",
        "change()",
    ),
    "a helper in a closure": (
        "def g(): return 1\ndef make(h):\n    def f(): return h()\n    return f\nx = 1\ndef h(): return x\nf = make(h)",
        "x = 2",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_is_made_again_when_a_name_means_something_else(table: CodeTable, main: Main, what: str) -> None:
    before, change = CHANGES[what]
    main.run(before)
    code = table.define(main["f"])
    assert table.define(main["f"]) == code
    assert sent(table, code)[1]() == 1
    main.run(change)
    again = table.define(main["f"])
    assert again != code
    # Classes are one per process, so that in this process the copy is the original: only look at the rest there.
    assert sent(table, again)[1]() == 2


def test_a_change_of_the_import_path_or_folder_makes_it_again(
    table: CodeTable, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main.run("def f(): return 1")
    code = table.define(main["f"])
    monkeypatch.syspath_prepend(tmp_path)
    with_path = table.define(main["f"])
    assert with_path != code
    monkeypatch.chdir(tmp_path)
    moved = table.define(main["f"])
    assert moved != with_path
    assert table.cwd_of(moved) == str(tmp_path)


def test_the_memory_of_a_definition_does_not_keep_it(table: CodeTable) -> None:
    def make() -> Any:
        def f() -> Any:
            return f

        return f

    f = make()
    table.define(f)
    alive = weakref.ref(f)
    del f
    gc.collect()
    assert alive() is None
    assert table._made == {}


def test_here_the_original_is_loaded(table: CodeTable, main: Main) -> None:
    main.run("class C: pass\ndef f(): pass")
    assert table.load(table.define(main["C"])) is main["C"]
    assert table.load(table.define(main["f"])) is main["f"]


def test_what_came_goes_back_under_its_own_hash(table: CodeTable, main: Main) -> None:
    main.run("x = 1\ndef f(): return x")
    code = table.define(main["f"])
    other, loaded = sent(table, code)
    assert other.define(loaded) == code
    loaded.__globals__["x"] = 5
    assert other.define(loaded) == code


def test_loading_twice_gives_one_object(table: CodeTable, main: Main) -> None:
    main.run("class C: pass")
    code = table.define(main["C"])
    other, loaded = sent(table, code)
    assert other.load(code) is loaded


def test_a_cached_function_of_main_can_be_used_and_sent(table: CodeTable, main: Main) -> None:
    main.run(
        "import functools\n@functools.lru_cache(maxsize=7)\ndef g(x): return x * 2\n"
        "g.__module__ = '__main__'\ndef f(x): return g(x)"
    )
    assert sent(table, table.define(main["f"]))[1](4) == 8
    codec = Codec(table)
    other = Codec(CodeTable("host"))
    wire = codec.pack(main["g"])
    assert isinstance(wire, Packed)
    for code in wire.codes:
        other.codes.add(table.get(code))
    again = other.unpack(wire)
    assert (again(4), again.cache_parameters()["maxsize"]) == (8, 7)


# --- errors


def test_a_lock_that_a_by_value_function_names(table: CodeTable, main: Main) -> None:
    main.run("import threading\nlock = threading.Lock()\ndef f():\n    with lock: return 1")
    with pytest.raises(SerializationError) as caught:
        table.define(main["f"])
    assert caught.value.path == "f -> the global 'lock'"
    assert "f can't be sent: it goes by value, and with it f -> the global 'lock' (of type _thread.lock)" in str(
        caught.value
    )
    assert "Make it inside the function" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_lock_in_an_importable_module_does_not_matter(table: CodeTable, modules: Any) -> None:
    module = modules("afw_lock", "import threading\nlock = threading.Lock()\ndef f():\n    with lock: return 1\n")
    assert sent(table, table.define(module.f))[1]() == 1


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("state = {'a': [lock]}\ndef f(): return state", "f -> the global 'state'['a'][0]"),
        ("def g(): return lock\ndef f(): return g()", "f -> the global 'g' -> the global 'lock'"),
        ("class C:\n    x = lock\ndef f(): return C", "f -> the global 'C'.x"),
        ("def f(x=lock): return x", "f -> a default of its parameters"),
        (
            "def make(held):\n    def f(): return held\n    return f\nf = make(lock)",
            ".f -> the closure variable 'held'",
        ),
    ],
)
def test_what_is_in_the_way_is_named(table: CodeTable, main: Main, source: str, path: str) -> None:
    main.run("import threading\nlock = threading.Lock()\n" + source)
    with pytest.raises(SerializationError) as caught:
        table.define(main["f"])
    assert caught.value.path.endswith(path)


def test_a_function_in_an_argument_fails_with_both_paths(table: CodeTable, main: Main) -> None:
    main.run("import threading\nlock = threading.Lock()\ndef f(): return lock")
    with pytest.raises(SerializationError, match=r"args\[0\]\['f'\] can't be sent: f can't be sent.*global 'lock'"):
        Codec(table).pack_args(({"f": main["f"]},), {})


def test_a_blob_that_is_not_here(table: CodeTable) -> None:
    with pytest.raises(SerializationError, match="has not arrived"):
        table.load(b"x" * 16)
    assert b"x" * 16 not in table


def test_a_damaged_blob(table: CodeTable) -> None:
    code = table.add(b"\xc1 nonsense")
    with pytest.raises(SerializationError, match="is damaged"):
        table.load(code)


def test_a_module_that_fails_when_imported_there(table: CodeTable, modules: Any) -> None:
    module = modules("afw_breaks", "def f(): return 1\n")
    code = table.define(module.f)
    Path(str(module.__file__)).write_text("raise RuntimeError('not here')\n# longer\n")
    sys.modules.pop("afw_breaks")
    importlib.invalidate_caches()
    with pytest.raises(SerializationError, match=r"afw_breaks\.f can't be loaded on .*RuntimeError: not here"):
        sent(table, code)


# --- definitions inside arguments


def test_a_class_in_an_argument_is_named_by_hash(table: CodeTable, main: Main) -> None:
    main.run("class C:\n    def __init__(self, x): self.x = x\n    " + "'a long docstring ' * 100")
    codec = Codec(table)
    wire, _ = codec.pack_args((main["C"](1), [main["C"](2)]), {})
    assert isinstance(wire, Packed)
    assert wire.codes == [table.define(main["C"])]
    assert len(wire.data) < 250
    again, _ = codec.pack_args((main["C"](3),), {})
    assert isinstance(again, Packed)
    assert again.codes == wire.codes


def test_what_can_be_imported_needs_no_blob(table: CodeTable) -> None:
    assert type(Codec(table).pack([json.dumps, json.JSONDecodeError("x", "y", 0), functools.partial(print)])) is bytes


def test_a_value_brings_the_path_that_its_class_needs(
    table: CodeTable, modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A function of an installed package, and an argument whose class stands beside the user's script.
    module = modules("afw_argument", "class C: pass\n")
    wire = Codec(table).pack([module.C()])
    assert isinstance(wire, Packed)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "afw_argument")
    other = CodeTable("host")
    for code in wire.codes:
        other.add(table.get(code))
    assert type(Codec(other).unpack(wire)[0]).__module__ == "afw_argument"


# --- between processes

WORKER = """
import pickle, sys, traceback
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
table = CodeTable("host")
codec = Codec(table)
job = pickle.load(open(sys.argv[1], "rb"))
for blob in job["blobs"]:
    table.add(blob)
results = []
for code, data, buffers, refs, codes in job["calls"]:
    from actorfw.wire.payload import Packed
    args, kwargs = codec.unpack_args(Packed(data, buffers, refs, codes))
    value = table.load(code)(*args, **kwargs)
    wire = codec.pack([value])
    wire = wire if isinstance(wire, Packed) else Packed(wire, [], [], [])
    results.append((wire.to_wire(), [table.get(c) for c in wire.codes]))
pickle.dump(results, open(sys.argv[1] + ".out", "wb"))
"""

DRIVER = """
import os as _os, pickle as _pickle, subprocess as _subprocess, sys as _sys
from actorfw.wire.code import CodeTable as _CodeTable
from actorfw.wire.codec import Codec as _Codec
from actorfw.wire.payload import Packed as _Packed

def call_there(*calls):
    table = _CodeTable("host"); codec = _Codec(table)
    blobs, rows = [], []
    for call in calls:
        if callable(call):
            call()
            continue
        function, args = call
        code = table.define(function)
        wire, _ = codec.pack_args((list(args),), {})
        wire = wire if isinstance(wire, _Packed) else _Packed(wire, [], [], [])
        blobs += [table.get(c) for c in (code, *wire.codes)]
        rows.append((code, *wire.to_wire()))
    job = _os.environ["JOB"]
    with open(job, "wb") as file:
        _pickle.dump({"blobs": blobs, "calls": rows}, file)
    _subprocess.run([_sys.executable, "-P", _os.environ["WORKER"], job], check=True, cwd="/")
    results = []
    with open(job + ".out", "rb") as file:
        for wire, more in _pickle.load(file):
            for blob in more:
                table.add(blob)
            results.append(codec.unpack(wire)[0])
    return results
"""

PROGRAM = (
    DRIVER
    + """
import dataclasses, enum, afw_helper

@dataclasses.dataclass
class Point:
    x: int
    def double(self): return Point(self.x * factor)

class Colour(enum.Enum):
    RED = 1

factor = 2

def work(args):
    point, colour = args
    assert isinstance(point, Point) and colour is Colour.RED, (point, colour)
    return afw_helper.tag(point.double()), colour

def check(args):
    return type(args[0]) is type(args[1]) and isinstance(args[0], Point)

def test_it():
    one, two = call_there((work, [Point(4), Colour.RED]), (check, [Point(1), Point(2)]))
    (tag, point), colour = one
    assert tag == "helped" and type(point) is Point and point == Point(8), one
    assert colour is Colour.RED
    assert two is True
    assert Point(1).double.__func__.__globals__ is globals()
    print("worked")

if __name__ == "__main__":
    test_it()
"""
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "afw_pkg").mkdir(parents=True)
    (folder / "afw_helper.py").write_text("def tag(value): return 'helped', value\n")
    (folder / "socket.py").write_text("raise ImportError('the user has a socket.py of his own')\n")
    (tmp_path / "worker.py").write_text(WORKER)
    return folder


def run(place: Path, *arguments: str, stdin: str | None = None) -> str:
    environment = {**os.environ, "JOB": str(place.parent / "job"), "WORKER": str(place.parent / "worker.py")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.real
@pytest.mark.parametrize("start", ["script", "-c", "stdin", "-m", "importlib", "prepend", "imported"])
def test_every_way_to_start_a_program(place: Path, start: str) -> None:
    if start != "imported":
        (place / "socket.py").unlink()  # the driver itself could not start beside it
    if start == "script":
        (place / "script.py").write_text(PROGRAM)
        assert "worked" in run(place, "script.py")
    elif start == "-c":
        assert "worked" in run(place, "-c", PROGRAM)
    elif start == "stdin":
        assert "worked" in run(place, "-", stdin=PROGRAM)
    elif start == "-m":
        (place / "afw_pkg" / "__init__.py").touch()
        (place / "afw_pkg" / "program.py").write_text(PROGRAM)
        assert "worked" in run(place, "-m", "afw_pkg.program")
    elif start in ("importlib", "prepend"):
        tests = place / "tests"
        tests.mkdir()
        (tests / "test_program.py").write_text(PROGRAM)
        (tests / "afw_helper.py").write_text((place / "afw_helper.py").read_text())
        # `python -m` puts the folder on the path; in importlib mode that of the tests is on none.
        out = run(
            place, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(place),
            f"--import-mode={start}", "tests/test_program.py", "-s",
        )  # fmt: skip
        assert "worked" in out
    else:
        # The program is a module, its definitions go by name, and a socket.py lies beside it.
        (place / "program.py").write_text(PROGRAM)
        source = f"import socket, sys; sys.path.append({str(place)!r}); import program; program.test_it()"
        assert "worked" in run(place, "-P", "-c", source)


@pytest.mark.real
def test_a_class_inside_a_function_and_in_arguments_is_one_class_and_keeps_its_state(place: Path) -> None:
    (place / "socket.py").unlink()
    program = (
        DRIVER
        + """
class Base:
    count = 0
    def up(self): type(self).count += 1; return type(self).count

class Counter(Base): pass

def first(args): return Counter().up(), args[0].up(), isinstance(args[0], Base)
def second(args): return Counter.count, Counter().up(), isinstance(args[0], Counter)
def give(args): return Counter()

one, two, three = call_there((first, [Counter()]), (second, [Counter()]), (give, []))
assert one == (1, 2, True), one
assert two == (2, 3, True), two
assert type(three) is Counter
assert Counter.count == 0 and Base.up.__globals__ is globals()
print("worked")
"""
    )
    assert "worked" in run(place, "-c", program)


@pytest.mark.real
def test_a_changed_class_arrives_changed_where_it_was_before(place: Path) -> None:
    (place / "socket.py").unlink()
    program = (
        DRIVER
        + """
class C:
    def m(self): return 1
def f(args): return args[0].m(), type(args[0]) is C
def g(args): return C().m()
def change(): C.m = lambda self: 2
assert call_there((f, [C()]), (g, []), change, (g, []), (f, [C()])) == [(1, True), 1, 2, (2, True)]
print("worked")
"""
    )
    assert "worked" in run(place, "-c", program)


@pytest.mark.real
def test_cloudpickle_is_loaded_only_for_what_goes_by_value() -> None:
    source = """
import sys, json, datetime
from actorfw.wire.code import CodeTable
from actorfw.wire.codec import Codec
codec = Codec(CodeTable("h"))
codec.unpack(codec.pack([datetime.date(2026, 1, 1), json.dumps, ValueError("x")]))
codec.codes.define(json.loads)
assert not {"cloudpickle", "numpy", "ctypes"} & set(sys.modules)
codec.pack(lambda: 1)
assert "cloudpickle" in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True)
