"""Checks what can be checked of how the tree is built: names of types, sizes of files and functions, who may import whom.
CONTRIBUTING.md, "House rules", explains the rules."""
import collections, pathlib, re, sys

root = pathlib.Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES = 500, 100
# Written by a script from the server's schema.
GENERATED = {"client-ts/src/wire.ts"}
# Lower rooms first. A room imports the rooms before it, never one after it.
ROOMS = ["clock", "random", "limits", "model", "wire", "dialect", "engine", "metrics", "loading", "store", "render", "settings", "telemetry", "access",
         "generation", "cluster", "edge", "app"]

problems = []


def lines_of(path):
    return path.read_text().splitlines()


def sources(*patterns):
    found = {path for pattern in patterns for path in root.glob(pattern)}
    skip = ("/node_modules/", "/dist/", "/patches/crates/", "/patches/fetch/")
    return sorted(path for path in found if not any(part in str(path) for part in skip))


def of_tests(path):
    return path.stem == "tests" or "tests" in path.parts or "test" in path.parts or "e2e" in path.parts


def check_names():
    """No name of a type stands twice in server/src outside wire: one word, one thing."""
    places = collections.defaultdict(set)
    for path in sources("server/src/**/*.rs"):
        if "wire" in path.relative_to(root / "server/src").parts:
            continue
        for line in lines_of(path):
            # Associated types are indented, and are named by their trait.
            found = re.match(r"(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) (\w+)", line)
            if found:
                places[found[1]].add(str(path.relative_to(root)))
    for name, files in sorted(places.items()):
        if len(files) > 1:
            problems.append(f"the type {name} stands in {', '.join(sorted(files))}: give each its own name")


def check_sizes():
    """No file is longer than FILE_LINES, no function longer than FUNCTION_LINES."""
    for path in sources("server/**/*.rs", "tests/**/*.rs", "client-ts/**/*.ts", "client-ts/**/*.tsx"):
        name, lines = str(path.relative_to(root)), lines_of(path)
        if len(lines) > FILE_LINES and name not in GENERATED:
            problems.append(f"{name} has {len(lines)} lines, at most {FILE_LINES}: split it by job")
        if path.suffix == ".rs":
            check_functions(name, lines)


def check_functions(name, lines):
    start = None
    for number, line in enumerate(lines, 1):
        opened = re.match(r"(\s*)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern \"C\" )*fn (\w+)", line)
        if opened:
            start = (opened[1], opened[2], number)
        if start and line == start[0] + "}":
            length = number - start[2] + 1
            if length > FUNCTION_LINES:
                problems.append(f"{name}:{start[2]}: {start[1]} has {length} lines, at most {FUNCTION_LINES}: split it by step")
            start = None


def check_imports():
    """A room of server/src imports lower rooms only. Unit tests may import any."""
    height = {room: number for number, room in enumerate(ROOMS)}
    for path in sources("server/src/**/*.rs"):
        room = path.relative_to(root / "server/src").parts[0].removesuffix(".rs")
        if room not in height or of_tests(path):
            continue
        text = path.read_text().split("\n#[cfg(test)]\n")[0]
        for used in sorted(set(imports(text))):
            if used in height and height[used] > height[room]:
                problems.append(f"{path.relative_to(root)} imports {used}, which lies above {room}")


def imports(text):
    """The rooms that a file names after `crate::`."""
    yield from re.findall(r"\bcrate::(\w+)", text)
    for tree in re.findall(r"^use crate::\{(.*?)\};", text, re.M | re.S):
        depth = 0
        for word in re.findall(r"\w+|[{}]", tree.replace("::", " :")):
            if depth == 0 and word not in "{}":
                yield word
            depth += {"{": 1, "}": -1}.get(word, 0)


def check_scripts():
    """A Redis script is a Lua file that says what it does, then names its keys and arguments in its head, above the first blank line."""
    for path in sources("server/src/**/*.rs"):
        if "redis.call" in path.read_text():
            problems.append(f"{path.relative_to(root)} has Lua in it: move it to server/src/store/redis/lua")
    for path in sources("server/src/**/*.lua"):
        name, text = path.relative_to(root), path.read_text()
        head, _, body = text.partition("\n\n")
        if not re.fullmatch(r"(?:--.*\n)+(?:local .*\n)*", head + "\n"):
            problems.append(f"{name} must begin with a comment, the locals that name its keys and arguments, and a blank line")
        for found in re.findall(r"(?:KEYS|ARGV)\[\d+\]", body):
            problems.append(f"{name} uses {found} below its head: give it a name there")


check_names()
check_sizes()
check_imports()
check_scripts()
for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(bool(problems))
