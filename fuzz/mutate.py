"""Make inputs from other inputs: by their structure where they have one, else by their bytes."""

from collections.abc import Callable, Sequence
from random import Random

from fuzz import trees

_BYTES = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b"\r\n\r\n", b": x\n", b'"', b"\\"),
    *(b"{", b"}", b"[", b"]", b",", b":", b"e999", b"data:", b"data: ", b"event: x\n", b"error:"),
    *(
        b"data: [DONE]\n\n",
        b"<think>",
        b"</think>",
        b"id: 1\n",
        b"\xe4\xb8",
        b"\\ud83d",
        b" " * 300,
    ),
)
_MAX_BYTES = 300_000


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Return *data* with a piece cut, doubled, moved, overwritten or put in."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    end = min(end, start + random.choice((1, 2, 8, 64, 1024)))
    match random.randrange(6):
        case 0:
            return data[:start] + data[end:]
        case 1:
            return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]
        case 2:
            return data[:start] + random.choice(_BYTES) + data[start:]
        case 3:
            return data[:start] + random.choice(_BYTES) + data[end:]
        case 4:
            return data[:start] + random.randbytes(end - start) + data[end:]
        case _:
            return data[:start]


def mutate_json(data: bytes, random: Random) -> bytes:
    """Return the document *data* with something else in one place; other bytes as bytes."""
    try:
        return trees.dump(trees.mutate(trees.load(data), random))
    except (ValueError, RecursionError):  # no JSON, or too deep to write
        return mutate_bytes(data, random)


def mutate_stream(data: bytes, random: Random) -> bytes:
    """Return the event stream *data* with its events, or one payload, changed."""
    events = data.split(b"\n\n")
    at = random.randrange(len(events))
    match random.randrange(6):
        case 0:
            del events[at]
        case 1:
            events.insert(random.randrange(len(events) + 1), events[at])
        case 2:
            random.shuffle(events)
        case 3:
            return mutate_bytes(data, random)
        case _:
            head, mark, payload = events[at].rpartition(b"data: ")
            events[at] = head + mark + mutate_json(payload, random)
    return b"\n\n".join(events)


def make_input(
    seeds: Sequence[bytes], mutate: Callable[[bytes, Random], bytes], random: Random
) -> bytes:
    """Return one of *seeds* after a few mutations; now and then the halves of two."""
    data = random.choice(seeds)
    if random.random() < 0.1:
        other = random.choice(seeds)
        data = data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 5, 10))):
        change = mutate_bytes if random.random() < 0.15 else mutate
        data = change(data, random)
    return data[:_MAX_BYTES]
