"""The loop: make an input, run its target, keep and shrink what breaks it."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.mutate import make_input, mutate_json, mutate_stream
from fuzz.seeds import CORPUS, seeds_of
from fuzz.targets import TARGETS

_MUTATIONS = {
    "request": mutate_json,
    "native_request": mutate_json,
    "reply": mutate_stream,
    "whole_reply": mutate_json,
    "native_reply": mutate_stream,
    "error_reply": mutate_json,
    "events": mutate_stream,
}
_MAX_TRIES = 2000  # of shrinking one input


class Fault(NamedTuple):
    """What broke: the exception with the line that raised it, which tells faults apart."""

    place: str
    message: str


def inputs_of(target: str, seed: int) -> Iterator[bytes]:
    """Yield inputs for *target* without end: always the same ones for a seed."""
    for number in itertools.count():
        random = Random(f"{seed} {target} {number}")
        yield make_input(seeds_of(target), _MUTATIONS[target], random)


def fuzz(
    names: Sequence[str],
    *,
    seed: int,
    seconds: float,
    said: Callable[[str], None],
    max_runs: int | None = None,
) -> int:
    """Run the targets in turn for about *seconds*; return how many faults were found."""
    streams = {name: inputs_of(name, seed) for name in names}
    runs, broken, ends_at = 0, set[str](), time.monotonic() + seconds
    for name in itertools.cycle(names):
        if runs == max_runs or time.monotonic() >= ends_at:
            break
        data = next(streams[name])
        runs += 1
        fault = fault_of(name, data)
        if fault is not None and fault.place not in broken:  # each fault is shown once
            broken.add(fault.place)
            path = _keep(name, shrink(name, data, fault))
            said(f"{name}: {fault.place}: {fault.message!r}\n    {path}")
    said(f"{runs} inputs, {len(broken)} faults")
    return len(broken)


def fault_of(name: str, data: bytes) -> Fault | None:
    """Return what *data* breaks, if anything."""
    try:
        TARGETS[name](data)
    except Exception as error:  # whatever it is, that is what is looked for
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        return Fault(f"{type(error).__name__} at {where}", str(error)[:300])
    return None


def shrink(name: str, data: bytes, fault: Fault) -> bytes:
    """Return a shorter input with the same fault, by cutting pieces while it stays."""
    size, tries = len(data) // 2, 0
    while size:
        at = 0
        while at < len(data) and tries < _MAX_TRIES:
            shorter = data[:at] + data[at + size :]
            tries += 1
            found = fault_of(name, shorter)
            if found is not None and found.place == fault.place:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _keep(name: str, data: bytes) -> Path:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
