"""The package's shape: what may import what, what starting costs, what the repository must not hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icdtune

SOURCE = Path(icdtune.__file__).parent
REPOSITORY = Path(__file__).parents[1]
ORDER = (
    "codes",
    "data",
    "evaluation",
    "prompts",
    "decoding",
    "coders",
    "posttrain",
    "study",
    "serve",
    "cli",
)
"""Packages, top first: each imports only itself and those before it."""
ROOT = {"", "errors", "files", "options", "progress"}
"""Modules beside the packages ("" is icdtune itself), which import no package."""
ENTRY = "__main__"
HEAVY = [
    "torch",
    "transformers",
    "pandas",
    "sklearn",
    "scipy",
    "pyarrow",
    "numpy",
    "plotly",
    "jinja2",
]
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
NETWORK = {"requests", "httpx", "aiohttp", "urllib3"}
MODULES = sorted(SOURCE.rglob("*.py"))
LATE_TARGET = re.compile(r"icdtune((?:\.\w+)+):\w+")
"""A registry's "module:name", imported when asked for."""
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|home|root|Users)/\w")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python\.org)|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|anaconda\.(?:org|com)"
    r"|artifactor[y]|devp[i]|index-url\s*[= ]\s*\S*://",
    re.IGNORECASE,
)


def name_of(path):
    return str(path.relative_to(SOURCE))


def place(path):
    """The package a file belongs to, or its own name where it stands beside the packages."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path):
    """(line, absolute module name) of every import in a file, those inside functions too."""
    package = ["icdtune", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            target = LATE_TARGET.fullmatch(node.value)
            yield from [(node.lineno, f"icdtune{target[1]}")] if target else []


def own_imports(path):
    """(line, place) of every import from icdtune; names of icdtune/__init__.py count as ""."""
    for line, module in imports(path):
        first, *rest = module.split(".")
        if first == "icdtune":
            beside = rest and ((SOURCE / rest[0]).is_dir() or (SOURCE / f"{rest[0]}.py").is_file())
            yield line, rest[0] if beside else ""


def test_every_package_has_its_place_in_the_order():
    places = {place(path) for path in MODULES}
    assert places - ROOT - set(ORDER) == {ENTRY}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_package_imports_only_packages_above_it(path):
    here = place(path)
    if here == ENTRY:
        allowed = {"cli"}
    elif here in ROOT:
        allowed = ROOT
    else:
        allowed = ROOT | set(ORDER[: ORDER.index(here) + 1])
    wrong = [f"line {line}: {there}" for line, there in own_imports(path) if there not in allowed]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_pickle_or_a_network_client(path):
    used = {module.split(".")[0] for _, module in imports(path)}
    assert used & (UNSAFE | NETWORK) == set()


def python(code):
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_comes_without_heavy_imports(argument):
    printed = python(
        "import sys\n"
        "from icdtune.cli import main\n"
        f"sys.argv = ['icdtune', {argument!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert printed.splitlines()[-1] == "heavy: []"


def test_importing_any_module_opens_no_socket_and_starts_no_program():
    printed = python(
        "import importlib, pkgutil, sys\n"
        "seen = []\n"
        "watched = ('socket.connect', 'socket.bind', 'socket.getaddrinfo', 'urllib.Request',\n"
        "           'subprocess.Popen', 'os.system')\n"
        "def watch(event, args):\n"
        "    probe = event == 'socket.bind' and args[1][:2] == ('::1', 0)  # a library's look for IPv6\n"
        "    if event in watched and not probe:\n        seen.append(event)\n"
        "sys.addaudithook(watch)\n"
        "import icdtune\n"
        "names = [m.name for m in pkgutil.walk_packages(icdtune.__path__, 'icdtune.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        importlib.import_module(name)\n"
        "print(len(names) > 20, seen)"
    )
    assert printed.splitlines()[-1] == "True []"


def tracked_files():
    command = ["git", "ls-files", "-z"]
    try:
        found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    paths = [REPOSITORY / name for name in found.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "package registry"]
)
def test_the_repository_names_no_machine_and_no_registry(pattern):
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {match[0]}")
    assert found == []
