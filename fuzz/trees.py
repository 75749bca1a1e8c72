"""JSON as trees that can hold what JSON should not: repeated keys, raw bytes, odd numbers."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

# What has broken parsers before, as it stands in the bytes.
RAW_VALUES = (
    *(b"null", b"true", b"false", b"0", b"-0", b"-1", b"1.5", b"1e308", b"1e999", b"-1e-999"),
    *(b"9" * 19, b"9" * 400, b"9" * 5000, b"01", b"1.", b".5", b"+1", b"NaN", b"Infinity", b"0x1"),
    *(b'""', b'" "', b'"\\u0000"', b'"\0"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"'),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xe4\xb8"', b'"\\x"', b'"', b"'a'", b'"\\u12"', b'"\x01"'),
    *(b"[]", b"{}", b"[", b"}", b"[[[[[[[[]]]]]]]]", b"[" * 300 + b"]" * 300, b'{"a":' * 150),
    *(b'{"a":1,"a":2}', b'"' + b"x" * 5000 + b'"', b"[null]", b"[{}]", b'{"type":"text"}', b""),
)


# What is special inside strings: to JSON, to streams, to templates, to us.
PIECES = (
    *("\\", '"', "\\u", "\\ud83d", "\\ude00", "\n", "\r", "\t", "\0", "{", "}", "[", "]", ",", ":"),
    *("\ud83d", "\ude00", "é", "🙂", "<think>", "</think>", "##", "1", "-", "e999", "True", "null"),
    *("functions.f:0", "toolu_12345678901-e", "srvtoolu_", "drgm", "https://", "f", "g"),
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
    ),
    *(
        "<arg_key>",
        "</arg_value>",
        "<｜tool▁calls▁begin｜>",
        "<｜DSML｜",
        "<|tool_call_begin|>",
        "```",
    ),
)


class Raw:
    """Bytes in the place of a value."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Pairs(list[list[Any]]):
    """An object: pairs of key and value, of which keys may repeat."""


def load(data: bytes) -> Any:
    """Return the tree of *data*; ValueError if this is no JSON."""
    return json.loads(data, object_pairs_hook=lambda found: Pairs([list(p) for p in found]))


def dump(tree: Any) -> bytes:
    """Return the bytes of a tree."""
    if isinstance(tree, Raw):
        return tree.data
    if isinstance(tree, Pairs):
        return b"{%b}" % b",".join(dump(key) + b":" + dump(value) for key, value in tree)
    if isinstance(tree, list):
        return b"[%b]" % b",".join(map(dump, tree))
    return json.dumps(tree).encode()


def places(tree: Any) -> Iterator[tuple[list[Any], int]]:
    """Yield every place of a value below *tree*: its container, and where it is in there."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Pairs):
            for pair in node:
                yield pair, 1
                waiting.append(pair[1])
        elif isinstance(node, list):
            for index, value in enumerate(node):
                yield node, index
                waiting.append(value)


def mutate(tree: Any, random: Random) -> Any:
    """Return *tree*, changed in one place."""
    root = [tree]
    found = [(root, 0), *places(tree)]
    holder, index = random.choice(found)
    node = holder[index]
    match random.randrange(12):
        case 0 | 1:
            holder[index] = Raw(random.choice(RAW_VALUES))
        case 2 | 3:
            other, at = random.choice(found)
            holder[index] = _copy(other[at])
        case 4 if isinstance(node, list) and node:
            del node[random.randrange(len(node))]
        case 5 if isinstance(node, list) and node:
            node.insert(random.randrange(len(node) + 1), _copy(random.choice(node)))
        case 6 if isinstance(node, list) and node:
            random.shuffle(node)
        case 7 if isinstance(node, Pairs) and node:
            random.choice(node)[0] = _some_key(random, found)
        case 8 if isinstance(node, Pairs):
            node.append([_some_key(random, found), _copy(random.choice(found)[0][-1])])
        case 9 | 10 | 11 if isinstance(node, str):
            holder[index] = _mutate_text(node, random)
        case _:
            holder[index] = random.choice([[node], Pairs([["type", node]]), str(node)[:50], [], 0])
    return root[0]


def _some_key(random: Random, found: list[tuple[list[Any], int]]) -> str:
    keys = [holder[0] for holder, index in found if index == 1 and isinstance(holder[0], str)]
    return random.choice([*keys, "", "x", "type"])


def _mutate_text(text: str, random: Random) -> str:
    """Return *text* with a piece put in, cut or doubled; JSON in a string is changed as JSON."""
    if text.startswith("{") and random.random() < 0.5:
        try:
            return dump(mutate(load(text.encode("utf-8", "surrogatepass")), random)).decode()
        except (ValueError, RecursionError):
            pass
    start, end = sorted(random.randrange(len(text) + 1) for _ in range(2))
    piece = random.choice(["", text[start:end] * 2, random.choice(PIECES), random.choice(PIECES)])
    return text[:start] + piece + text[random.choice([start, end]) :]


def _copy(tree: Any) -> Any:
    if isinstance(tree, Pairs):
        return Pairs([[key, _copy(value)] for key, value in tree])
    return [_copy(item) for item in tree] if isinstance(tree, list) else tree
