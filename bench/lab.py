"""What a run needs at hand: upstream, nginx before it, gateway before it, and their cores."""

import http.client
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from bench import requests
from bench.processes import (
    CACHE,
    CannotMeasure,
    Program,
    build_programs,
    check_ports,
    gateway,
    nginx,
    run_load,
    upstream_stats,
    wait_for,
)

_MAX_CONNECTIONS_PER_REQUEST: Final = 0.05  # above it, connections are not used again


class Lab:
    """
    The programs of one run; a context manager.

    Args:
        models: What the gateway serves, by the names that the upstream understands.
        port_base: The first of six ports.
    """

    def __init__(self, models: Sequence[str], *, port_base: int) -> None:
        self._models = list(models)
        self._ports = range(port_base, port_base + 6)
        self.upstream, self.tls, self.nginx, self.gateway, self.pair, self.third = self._ports
        cores = sorted(os.sched_getaffinity(0))
        self.core = cores[0] if len(cores) > 1 else None
        self.load_core = cores[1] if len(cores) > 1 else None
        self.folder = Path()
        self.programs: dict[str, Program] = {}

    def __enter__(self) -> Self:
        build_programs()
        check_ports(self._ports)
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(list(self.programs.values())):
            program.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        command = [str(CACHE / "upstream"), str(self.upstream)]
        self._add("upstream", Program(command, core=self.load_core), self.upstream)
        ports = {"folder": self.folder, "upstream": self.upstream}
        tls = nginx("tls", **ports, port=self.tls, core=self.load_core)
        self._add("tls", tls, self.tls)
        self._add("nginx", nginx("nginx", **ports, port=self.nginx, core=self.core), self.nginx)
        self.config = requests.write_config(
            self.folder, self._models, upstream=self.upstream, tls=self.tls
        )
        self._add("gateway", self.new_gateway(self.gateway), self.gateway)
        self.answer_once(self.gateway)

    def _add(self, name: str, program: Program, port: int) -> None:
        self.programs[name] = program
        wait_for(port, program)

    def new_gateway(
        self,
        port: int,
        *,
        args: Sequence[str] = (),
        is_pinned: bool = True,
        config: Path | None = None,
    ) -> Program:
        """Start another gateway, with the same configuration if no other is given."""
        core = self.core if is_pinned else None
        config = config or self.config
        return gateway(self.folder, port=port, config=config, core=core, args=args)

    def answer_once(self, port: int) -> None:
        """
        Get one answer to a message.

        Raises:
            CannotMeasure: It is not a good one.
            OSError: Nobody is there yet.
        """
        head, _, body = requests.small("whole", is_stream=False).partition(b"\r\n\r\n")
        sent = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("POST", "/v1/messages", body=body, headers=sent)
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise CannotMeasure(f"the gateway answers {reply.status}: {text[:300]!r}")

    def first_answer_s(self, *, config: Path | None = None) -> float:
        """Return the seconds from the start of a gateway to its first answer."""
        started_s = time.monotonic()
        program = self.new_gateway(self.pair, config=config)
        try:
            while True:
                if program.process.poll() is not None:
                    raise CannotMeasure("the gateway ended at once")
                try:
                    self.answer_once(self.pair)
                except OSError:
                    time.sleep(0.002)
                else:
                    return time.monotonic() - started_s
        finally:
            program.stop()

    def port_of(self, target: str) -> int:
        """Return where *target* listens."""
        ports = {"direct": self.upstream, "nginx": self.nginx, "gateway": self.gateway}
        return ports[target]

    def load(
        self,
        port: int,
        request: bytes,
        *,
        connections: int,
        requests: int,
        events: int,
        stagger_us: int = 0,
    ) -> dict[str, Any]:
        """
        Send *request* that often, return what the load client saw.

        Raises:
            CannotMeasure: A reply was wrong, or connections were not used again.
        """
        path = self.request_file(request)
        before = upstream_stats(self.upstream)
        command = [port, path, connections, requests, events, stagger_us]
        seen = run_load(command, core=self.load_core)
        after = upstream_stats(self.upstream)
        if seen["errors"]:
            raise CannotMeasure(f"{seen['errors']} bad replies; first: {seen['first_error']}")
        served = after["requests"] - before["requests"]
        if served != requests:
            raise CannotMeasure(f"{served} requests reached the upstream instead of {requests}")
        opened = after["accepted"] - before["accepted"] - connections - 1
        if requests > 10 * connections and opened > _MAX_CONNECTIONS_PER_REQUEST * requests:
            raise CannotMeasure(f"connections to the upstream are not used again: {opened} new")
        if seen["connects"] > connections:
            raise CannotMeasure("connections of the client are not used again")
        if after["stalls"] > before["stalls"]:
            raise CannotMeasure("the upstream could not send in time: a buffer was full")
        return seen

    def request_file(self, request: bytes) -> Path:
        """Return a file with *request*."""
        path = self.folder / "request.http"
        path.write_bytes(request)
        return path
