"""
Start Ray Serve with two engines, put the gateway before them, and ask through it.

    python examples/ray/run.py [--requests 12] [--stay]

Everything listens on 127.0.0.1 and ends with this program. With --stay it serves until Ctrl-C.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is loaded: nothing is told to anybody
os.environ["PYTHONWARNINGS"] = "ignore"

import ray
from anthropic import AsyncAnthropic
from ray import serve

HERE = Path(__file__).parent
START_TIMEOUT_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--stay", action="store_true")
    options = parser.parse_args()
    with ray_engines() as engines_url, gateway(engines_url) as url:
        print(f"engines (Ray Serve)  {engines_url}\ngateway (Anthropic)  {url}", flush=True)
        wait_for(engines_url)
        ended = asyncio.run(ask_many(url, options.requests))
        print(f"requests answered    {len(ended)}; stop reasons {dict(collections.Counter(ended))}")
        replicas = wait_for(engines_url)
        print(f"by replica           {replicas}", flush=True)
        if options.stay:
            wait_for_interrupt()
    return 0 if len(replicas) == 2 and sum(replicas.values()) == options.requests else 1


@contextlib.contextmanager
def ray_engines() -> Iterator[str]:
    """Run the application of ``engines.py`` in a Ray of this machine alone; give its address."""
    sys.path.insert(0, str(HERE))
    from engines import app  # noqa: PLC0415 - needs the path

    port = free_port()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(HERE)}},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app, name="engines", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def gateway(engines_url: str) -> Iterator[str]:
    """Run `dragoman serve` before the engines; give its address."""
    command = [sys.executable, "-m", "dragoman", "serve", "--config", str(HERE / "dragoman.toml")]
    environ = {**os.environ, "RAY_ENGINES_URL": f"{engines_url}/v1"}
    process = subprocess.Popen(
        [*command, "--log-format", "json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield address_of(process)
    finally:
        process.terminate()
        process.wait(timeout=60)


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise SystemExit(f"the gateway did not start; it ended with {process.wait()}")


def wait_for(engines_url: str) -> dict[str, int]:
    """Ask until both replicas have told how many requests they answered, or for a minute."""
    seen: dict[str, int] = {}
    end_s = time.monotonic() + START_TIMEOUT_S
    while len(seen) < 2 and time.monotonic() < end_s:
        with urllib.request.urlopen(f"{engines_url}/replica", timeout=START_TIMEOUT_S) as reply:
            told = json.load(reply)
            seen[told["replica"]] = told["answered"]
    return seen


async def ask_many(url: str, n: int) -> list[str]:
    """Send *n* streamed requests at once through the gateway; return how each ended."""
    async with AsyncAnthropic(base_url=url, api_key="local", max_retries=2) as client:
        return await asyncio.gather(*(ask(client, number) for number in range(n)))


async def ask(client: AsyncAnthropic, number: int) -> str:
    async with client.messages.stream(
        model="dragoman-demo",
        max_tokens=16,
        messages=[{"role": "user", "content": f"Say hello, for the {number + 1}th time."}],
    ) as stream:
        message = await stream.get_final_message()
    assert message.usage.output_tokens > 0
    return str(message.stop_reason)


def wait_for_interrupt() -> None:
    print("serving until Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
