"""Finds files that import each other in a loop: a module whose parts need one another is one part, or holds a third."""
import pathlib, re, sys

root = pathlib.Path(__file__).resolve().parent.parent
CRATES = ["server/src", "server/kernels/src"]
SCRIPTS = ["client-ts/src", "client-ts/chat/src"]


def tokens_of_uses(text):
    """Each `use` declaration as (is it public, its tree as tokens)."""
    for found in re.finditer(r"^\s*(pub(?:\([^)]*\))? )?use ([^;]+);", text, re.M):
        yield bool(found[1]), re.findall(r"\w+|[{},*]", found[2])


def paths_of(tokens):
    """The paths of a tree: `a::{b, c::*, d as e}` is (a, b), (a, c, *), (a, d); with the name that each gets here."""
    stack, prefix, path, alias, skip = [], [], [], None, False
    for token in [*tokens, ","]:
        if token == "{":
            stack.append(prefix)
            prefix, path = prefix + path, []
        elif token in ",}":
            if path:
                whole = prefix + (path[:-1] if path[-1] == "self" and len(path) > 1 else path)
                whole = whole[:-1] if whole[-1] == "self" and len(whole) > 1 else whole
                yield tuple(whole), alias or whole[-1]
            path, alias, skip = [], None, False
            if token == "}":
                prefix = stack.pop()
        elif token == "as":
            skip = True
        elif skip:
            alias = token
        else:
            path = path + [token]


class Crate:
    """The modules of a crate, the names that each defines, and what each hands on."""

    def __init__(self, folder):
        self.folder, self.files, self.texts, self.handed = folder, {}, {}, {}
        for path in sorted(folder.rglob("*.rs")):
            parts = list(path.relative_to(folder).with_suffix("").parts)
            if parts[-1] in ("mod", "lib", "main"):
                parts.pop()
            if "tests" in parts or (not parts and path.stem == "main"):
                continue
            text = re.sub(r"^\s*//.*$", "", path.read_text().split("\n#[cfg(test)]\nmod tests {")[0], flags=re.M)
            # In a module within the file, `super` is the file itself.
            text = re.sub(
                r"^( *)(?:pub(?:\([^)]*\))? )?mod \$?\w+ \{$.*?^\1\}$",
                lambda inner: re.sub(r"(?<!::)\bsuper::", "self::", inner[0]), text, flags=re.M | re.S,
            )
            self.files[tuple(parts)], self.texts[tuple(parts)] = path, text
        for module, text in self.texts.items():
            self.handed[module] = [
                (self.whole(module, path), name)
                for public, tokens in tokens_of_uses(text) if public for path, name in paths_of(tokens)
            ]

    def whole(self, module, path):
        """The path from the crate's root, or nothing if it leads out of the crate."""
        if path[0] == "crate":
            return path[1:]
        if path[:2] == ("self", "super"):
            path = path[1:]
        up = 0
        while path[up:up + 1] == ("super",):
            up += 1
        if up:
            return module[:len(module) - up] + path[up:]
        if path[0] == "self":
            return module + path[1:]
        return module + path if module + path[:1] in self.files else None

    def home(self, path, depth=0):
        """The module that defines what a path names."""
        module = path
        while module not in self.files:
            module = module[:-1]
        rest = path[len(module):]
        if not rest or depth > 8:
            return module
        if re.search(rf"\b(?:struct|enum|trait|type|fn|const|static|union|macro_rules!) {re.escape(rest[0])}\b", self.texts[module]):
            return module
        for target, name in self.handed[module]:
            if target and name == rest[0]:
                return self.home(target + rest[1:], depth + 1)
        for target, name in self.handed[module]:
            if target and name == "*":
                found = self.home(target[:-1] + rest, depth + 1)
                if found != target[:-1] or rest[0] in self.texts[found]:
                    return found
        return module

    def arrows(self):
        """Module → the modules that it imports, with the names that it takes from each."""
        graph = {}
        for module, text in self.texts.items():
            # A name that is handed on is no arrow.
            used = [path for public, tokens in tokens_of_uses(text) if not public for path, _ in paths_of(tokens)]
            body = re.sub(r"^\s*(?:pub(?:\([^)]*\))? )?use [^;]+;", "", text, flags=re.M)
            named = [tuple(found.split("::")) for found in re.findall(r"(?<![:\w])(\w+(?:::\w+)+)", body)]
            used += [path for path in named if path[0] in ("crate", "super") or module + path[:1] in self.files]
            graph[module] = {}
            for path in used:
                target = self.whole(module, path)
                if target is None:
                    continue
                home = self.home(target[:-1] if target[-1:] == ("*",) else target)
                if home != module:
                    graph[module].setdefault(home, set()).add(path[-1])
        return graph


def crate_arrows(folder):
    """File → the files of the crate that it imports, with the names that it takes from each."""
    crate = Crate(folder)
    return {
        crate.files[module]: {crate.files[other]: names for other, names in used.items()}
        for module, used in crate.arrows().items()
    }


def script_arrows(folder):
    """File of TypeScript → the files that it imports, types included."""
    files = {path for path in folder.rglob("*.ts*") if not path.name.endswith(".d.ts")}
    return {
        path: {
            other: {other.stem}
            for name in re.findall(r'(?:from|import)\s*\(?"(\.[^"]+)"', path.read_text())
            if (other := (path.parent / name).resolve()) in files
        }
        for path in sorted(files)
    }


def circles(graph):
    """The strongly connected components of two modules and more (Tarjan)."""
    index, low, stack, found, count = {}, {}, [], [], [0]

    def visit(node):
        index[node] = low[node] = count[0]
        count[0] += 1
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while not part or part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def main():
    sys.setrecursionlimit(10_000)
    graphs = [crate_arrows(root / folder) for folder in CRATES] + [script_arrows(root / folder) for folder in SCRIPTS]
    found = [(graph, circle) for graph in graphs for circle in circles(graph)]
    for graph, circle in found:
        print("these files import each other in a loop:", file=sys.stderr)
        for path in circle:
            for other, names in sorted(graph[path].items()):
                if other in circle:
                    shown = [str(file.relative_to(root)) for file in (path, other)]
                    print(f"  {shown[0]} -> {shown[1]}: {', '.join(sorted(names))}", file=sys.stderr)
    sys.exit(bool(found))


main()
