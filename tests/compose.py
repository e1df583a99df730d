"""Checks docker-compose.yml and config/compose.keys.yml: services are published on this machine only, confined, bounded and
pinned, and every mounted file exists. Needs PyYAML."""
import pathlib, re, sys

import yaml

root = pathlib.Path(__file__).resolve().parent.parent
yaml.SafeLoader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
wrong = []


def check(holds, message):
    if not holds:
        wrong.append(message)


compose = yaml.safe_load((root / "docker-compose.yml").read_text())
keys = yaml.safe_load((root / "config/compose.keys.yml").read_text())
services = compose["services"]
# Ends when the model has been downloaded.
jobs = {"model"}
for name, service in services.items():
    for port in service.get("ports", []):
        check(str(port).startswith("127.0.0.1:"), f"{name}: {port} is published to other machines")
    check("no-new-privileges:true" in service.get("security_opt", []), f"{name}: may gain privileges")
    check("privileged" not in service and service.get("network_mode") != "host", f"{name}: is not confined")
    image = service["image"]
    check(image.startswith("caudal") or re.search(r":v?\d+\.\d+", image), f"{name}: {image} is not pinned to a version")
    for volume in service.get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("./"):
            check((root / source).exists(), f"{name}: {source} does not exist")
            check(rest.endswith(":ro"), f"{name}: may write {source}")
    if name in jobs:
        continue
    check(service.get("read_only") is True, f"{name}: may write its image")
    check("mem_limit" in service, f"{name}: has no bound on memory")
    check(service.get("pids_limit", 0) > 0, f"{name}: has no bound on processes")
    check("hard" in service.get("ulimits", {}).get("nofile", {}), f"{name}: has no bound on open files")
    check("restart" in service, f"{name}: is not started again")

check("--requirepass" in services["redis"]["command"], "redis: has no password")
check(services["redis"]["networks"] == ["store"] and "ports" not in services["redis"], "redis: can be reached")
check(compose["networks"]["store"]["internal"] is True, "the store's network reaches the world")
replicas = [name for name in services if name.startswith("replica-")]
for name in replicas:
    environment = services[name]["environment"]
    check("REDIS_PASSWORD" in environment["CAUDAL__STORE__REDIS__URL"], f"{name}: asks redis without its password")
    check(services[name].get("cap_drop") == ["ALL"], f"{name}: has capabilities")
    check("ports" not in services[name], f"{name}: is reached around nginx")
check(services["nginx"]["environment"]["RESOLVE"] == "resolve", "nginx: does not resolve names anew")

# `docker compose up` starts only services without a profile.
extra = {name for name, service in services.items() if service.get("profiles")}
check(extra == {"prometheus", "grafana"}, f"optional: {sorted(extra)}")
targets = yaml.safe_load((root / "config/prometheus/replicas.json").read_text())[0]["targets"]
check(sorted(targets) == sorted(f"{name}:8080" for name in replicas), f"prometheus scrapes {targets}")

# A server that other machines can reach requires keys.
for name in replicas:
    environment = keys["services"][name]["environment"]
    check(environment["CAUDAL__AUTH__MODE"] == "keys", f"{name}: is open to other machines")
    required = [environment[f"CAUDAL__AUTH__{key}"] for key in ("KEYS", "ADMIN_KEY")]
    check(all(":?" in value for value in required), f"{name}: starts without keys")
sys.exit("\n".join(wrong) or None)
