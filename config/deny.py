"""Checks dependencies against config/deny.toml without a network: licences and sources of crates, banned crates, and licences of
npm packages. Replaces cargo-deny, which takes minutes to build, except for advisories, which need its database."""
import json, pathlib, re, subprocess, sys, tomllib

root = pathlib.Path(__file__).resolve().parent.parent
policy = tomllib.loads((root / "config/deny.toml").read_text())
allowed = set(policy["licenses"]["allow"])
banned = {ban["crate"] for ban in policy["bans"]["deny"]}
registries = {"registry+" + url for url in policy["sources"]["allow-registry"]}


def permits(expression):
    """Whether an SPDX expression offers a choice that is allowed. Old crates write '/' for OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def either():
        ok = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            ok = both() or ok
        return ok

    def both():
        ok = single()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            ok = single() and ok
        return ok

    def single():
        name = tokens.pop(0)
        if name == "(":
            ok = either()
            tokens.pop(0)
            return ok
        if tokens[:1] == ["WITH"]:
            name = " ".join([name, tokens.pop(0), tokens.pop(0)])
        return name in allowed

    return either() and not tokens


wrong = []
metadata = subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], cwd=root, check=True, capture_output=True)
for crate in json.loads(metadata.stdout)["packages"]:
    name = f"{crate['name']} {crate['version']}"
    if not crate["license"] or not permits(crate["license"]):
        wrong.append(f"{name}: the licence {crate['license']!r} is not allowed")
    if crate["source"] and crate["source"] not in registries:
        wrong.append(f"{name}: comes from {crate['source']}")
    if crate["name"] in banned:
        wrong.append(f"{name}: is banned")
for lock in ["client-ts/package-lock.json", "tests/clients/js/package-lock.json"]:
    for path, package in json.loads((root / lock).read_text())["packages"].items():
        if path and not package.get("link") and not permits(package.get("license") or "none"):
            wrong.append(f"{lock}, {path}: the licence {package.get('license')!r} is not allowed")
sys.exit("\n".join(wrong) or None)
