"""Worker processes that read PDF files, so that no file can block, swell or break the gateway."""

import asyncio
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

_WORKER: Final = Path(__file__).with_name("pdf_worker.py")
_REQUEST_HEAD: Final = struct.Struct(">BI")
_ANSWER_HEAD: Final = struct.Struct(">I")
_START_TIMEOUT_S: Final = 60.0  # importing the PDF library, on a busy or slow machine
_END_TIMEOUT_S: Final = 5.0
# What the interpreter needs to find its libraries; no key and no token of the gateway's.
_ENVIRONMENT: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SYSTEMROOT")

_UNAVAILABLE: Final = "the PDF reader could not be started"
_CRASHED: Final = "the PDF made its reader fail"


class PdfLimits(Struct, frozen=True, kw_only=True):
    """Bounds for one PDF, and how many are read at a time."""

    max_bytes: int = 32 * 2**20
    max_pages: int = 600
    max_text_chars: int = 2_000_000
    time_limit_s: float = 30.0
    max_memory_bytes: int = 2**30
    workers: int = 2


class PdfAnswer(Struct, frozen=True):
    """
    The text of one PDF, or why there is none.

    *reason* with a text says what of it is missing. *is_lasting*: the same file would get the same
    answer again.
    """

    status: Literal["text", "unreadable", "exhausted", "invalid_base64", "ready"]
    text: str
    reason: str
    is_lasting: bool = True


_decode_answer: Final = msgspec.json.Decoder(PdfAnswer).decode


class PdfPool:
    """
    At most ``limits.workers`` processes, started when needed, ended when they misbehave.

    Attributes:
        n_read: Files given to a worker so far.
    """

    def __init__(self, limits: PdfLimits) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.workers)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._is_closed = False
        self.n_read = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are running."""
        return [worker.pid for worker in self._all if worker.pid]

    async def extract(self, data: bytes, *, is_base64: bool) -> PdfAnswer:
        """Read one PDF; waits for a free worker."""
        async with self._slots:
            if self._is_closed:
                return _failure(_UNAVAILABLE)
            worker = await self._take_worker()
            self.n_read += 1
            try:
                answer = await worker.extract(data, is_base64=is_base64)
            finally:
                if worker.is_usable:
                    self._idle.append(worker)
                else:
                    await self._end(worker)
            return answer

    async def close(self) -> None:
        """End all workers, also those at work."""
        self._is_closed = True
        for worker in list(self._all):
            await self._end(worker)

    async def _take_worker(self) -> "_Worker":
        while self._idle:
            worker = self._idle.pop()
            if worker.is_usable:
                return worker
            await self._end(worker)  # killed from outside while it waited
        worker = _Worker(self._limits)
        self._all.add(worker)
        return worker

    async def _end(self, worker: "_Worker") -> None:
        self._all.discard(worker)
        await worker.end()


class _Worker:
    """One child process; once it is not usable any more it has to be ended."""

    def __init__(self, limits: PdfLimits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None
        self._is_answering = False
        self._is_ended = False

    @property
    def pid(self) -> int:
        """Of the running process; 0: there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def is_usable(self) -> bool:
        return self.pid != 0 and not self._is_answering and not self._is_ended

    async def extract(self, data: bytes, *, is_base64: bool) -> PdfAnswer:
        self._is_answering = True  # and stays so after any failure and when we are cancelled
        try:
            if self._process is None:
                await self._start()
        except (OSError, TimeoutError, EOFError, msgspec.DecodeError):
            return _failure(_UNAVAILABLE)
        try:
            async with asyncio.timeout(self._limits.time_limit_s):
                answer = await self._exchange(data, is_base64=is_base64)
        except TimeoutError:
            return _failure(f"the PDF took longer than {self._limits.time_limit_s:g} s to be read")
        except (OSError, EOFError, msgspec.DecodeError):
            return _failure(_CRASHED)
        self._is_answering = answer.status == "exhausted"
        return answer

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self._is_ended = True
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                await process.wait()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-B", "-P", str(_WORKER), msgspec.json.encode(self._limits).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the gateway, which then ends its workers
        )
        if self._is_ended:
            raise EOFError
        async with asyncio.timeout(_START_TIMEOUT_S):
            await self._read_answer()

    async def _exchange(self, data: bytes, *, is_base64: bool) -> PdfAnswer:
        stdin = self._pipes()[0]
        stdin.write(_REQUEST_HEAD.pack(is_base64, len(data)))
        stdin.write(data)
        await stdin.drain()
        return await self._read_answer()

    async def _read_answer(self) -> PdfAnswer:
        stdout = self._pipes()[1]
        (n_bytes,) = _ANSWER_HEAD.unpack(await stdout.readexactly(_ANSWER_HEAD.size))
        # A character takes up to six bytes of JSON.
        if n_bytes > 6 * self._limits.max_text_chars + 2**16:
            raise EOFError
        return _decode_answer(await stdout.readexactly(n_bytes))

    def _pipes(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError  # ended meanwhile
        return process.stdin, process.stdout


def _failure(reason: str) -> PdfAnswer:
    return PdfAnswer("unreadable", "", reason, is_lasting=False)
