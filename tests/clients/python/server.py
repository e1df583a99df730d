"""Starts servers for tests: the real binary with the scripted engine on a free port."""

import contextlib
import os
import subprocess
import time

WORDS = "A river does not ask who is listening."
CALL = '<tool_call> {"name": "weather", "arguments": {"city": "Porto"}} </tool_call>'
JSON = '{"city": "Porto", "degrees": 21}'


def words(text: str) -> int:
    return len(text.split())


class Server:
    """A running `caudal serve`. `settings` have the form of `--set`."""

    def __init__(self, *settings: str):
        command = [os.environ["CAUDAL_BIN"], "serve"]
        for setting in ["server.bind=127.0.0.1:0", "engine.kind=scripted", "store.kind=memory", "engine.scripted.tokens_per_second=400", *settings]:
            command += ["--set", setting]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAUDAL__")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        line = self.process.stdout.readline().strip()
        assert line.startswith("listening on "), line
        self.root = line.removeprefix("listening on ")
        self.url = f"{self.root}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def says(text: str, *settings: str) -> Server:
    """Starts a server whose every answer is `text`."""
    return Server(f"engine.scripted.text={text}", f"engine.scripted.tokens={words(text)}", *settings)


def one_at_a_time() -> Server:
    """Starts a server that runs one generation at a time, each a minute long."""
    return Server("engine.max_running=1", "engine.scripted.tokens=6000", "engine.scripted.tokens_per_second=100")


@contextlib.contextmanager
def within(seconds: float, what: str):
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < seconds, f"{what} took {took:.1f} s"
