"""Checks that the shipped nginx configuration finds replicas that return under other addresses, without a reload.

NGINX_BIN=/path/to/nginx CAUDAL_BIN=/path/to/caudal python3 tests/nginx/resolve.py. Needs nginx 1.27.3 or later, as docker-compose.yml
has; older ones do not know `resolve`.
"""

import os
import pathlib
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

CONFIG = pathlib.Path(__file__).parents[2] / "config" / "nginx"
NAMES = ["replica-1.test", "replica-2.test", "replica-3.test"]


class Names:
    """A name server: `addresses` has what each name resolves to. A name without an address does not exist."""

    def __init__(self):
        self.addresses = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, client = self.socket.recvfrom(512)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            question = query[12 : at + 5]
            address = self.addresses.get(".".join(labels))
            flags = 0x8180 if address else 0x8183
            answer = query[:2] + struct.pack(">HHHHH", flags, 1, 1 if address else 0, 0, 0) + question
            if address:
                answer += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            self.socket.sendto(answer, client)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def caudal(address: str, port: int) -> subprocess.Popen:
    command = [os.environ["CAUDAL_BIN"], "serve"]
    for setting in [f"server.bind={address}:{port}", "engine.kind=scripted", "store.kind=memory"]:
        command += ["--set", setting]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout.readline().startswith("listening on ")
    return server


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def until_served(url: str, what: str):
    deadline = time.monotonic() + 10
    while (seen := status(url)) != 200:
        assert time.monotonic() < deadline, f"{what}: {seen}"
        time.sleep(0.1)
    print(f"{what}: served")


def main():
    names, listen, port = Names(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        site = (CONFIG / "caudal.conf.template").read_text()
        values = {"LISTEN": f"127.0.0.1:{listen}", "RESOLVER": f"resolver 127.0.0.1:{names.port} valid=1s ipv6=off;", "RESOLVE": "resolve"}
        values |= {f"REPLICA_{at}": f"{name}:{port}" for at, name in enumerate(NAMES, 1)}
        for name, value in values.items():
            site = site.replace("${" + name + "}", value)
        (home / "conf.d").mkdir()
        (home / "conf.d" / "caudal.conf").write_text(site)
        (home / "nginx.conf").write_text((CONFIG / "nginx.conf").read_text())
        # When nginx starts, two names cannot be resolved.
        names.addresses = {NAMES[0]: "127.0.0.2"}
        first = caudal("127.0.0.2", port)
        command = [os.environ.get("NGINX_BIN", "nginx"), "-p", folder, "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
        nginx = subprocess.Popen([*command, "-g", f"daemon off; pid {home}/nginx.pid;"])
        running = [first]
        try:
            url = f"http://127.0.0.1:{listen}/readyz"
            until_served(url, "one replica, two names unknown")
            for at, address in enumerate(["127.0.0.3", "127.0.0.4"]):
                running[-1].kill()
                running[-1].wait()
                running.append(caudal(address, port))
                names.addresses = {NAMES[at]: address}
                until_served(url, f"back under {address}, as {NAMES[at]}")
                time.sleep(2.5)  # max_fails has a fail_timeout of 2 s: all of these are after it.
                seen = [status(url) for _ in range(12)]
                assert seen == [200] * 12, seen
        finally:
            nginx.terminate()
            for server in running:
                server.kill()
            nginx.wait()


if __name__ == "__main__":
    main()
