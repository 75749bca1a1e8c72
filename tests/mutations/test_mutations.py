"""
Break the code below each rule and each promise, one change at a time; their tests must notice.

A mutation replaces a piece of one function's source, compiles the function anew and puts it in the
old one's place, in this process and for one test: milliseconds, and no file is touched. A mutation
that no longer fits the code fails, too: whoever changes such a function looks at its rule.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from dragoman.core import (
    block_writer,
    guards,
    history,
    passthrough,
    plan,
    plan_frame,
    settings,
    stop_sequences,
    thinking,
    tool_text,
    turn,
    usage,
)
from dragoman.core.block_writer import BlockWriter
from dragoman.core.dialects import registry
from dragoman.core.history import HistoryReader, HistoryWriter
from dragoman.core.repair_log import RepairLog
from dragoman.core.reply_text import ReplyText
from dragoman.core.stop_sequences import StopMatcher
from dragoman.core.tool_calls import ToolCall, ToolCallAssembler
from dragoman.core.tool_grammars.code_tracker import CodeTracker
from dragoman.core.tool_text import ToolTextCutter
from dragoman.core.turn import ChatTurn
from dragoman.policy.calibration import Calibration
from dragoman.policy.learned import LearnedFacts
from dragoman.server import attempts, vault
from dragoman.server.ask_chat import ChatAsk
from dragoman.server.reply_repairs import ReplyRepairs
from laws import test_family_promises as promises
from laws import test_thirteen_rules as rules


@dataclass(frozen=True)
class Mutation:
    """A change to one function: where it is found by its callers, and what of it is replaced."""

    rule: int | str  # the number of a rule, the name of a promise
    owner: Any
    function: str
    old: str
    new: str


def fact(rule: int | str, name: str, value: object) -> Mutation:
    """Return a mutation after which every profile says *value*."""
    new = f"{{**values, {name!r}: {value!r}, **(overrides"
    return Mutation(rule, registry, "find_profile", "{**values, **(overrides", new)


MUTATIONS = [
    fact(1, "echo_reasoning", "never"),
    Mutation(
        1,
        HistoryWriter,
        "_add_reasoning",
        "reasoning_field] = reasoning\n",
        "reasoning_field] = reasoning.strip()\n",
    ),
    fact(2, "reasoning_placeholder", None),
    Mutation(
        2, HistoryReader, "_read_thinking", "if thinking:", "if thinking and block.signature:"
    ),
    Mutation(
        2,
        BlockWriter,
        "_close_open",
        'if self.open_kind == "thinking"',
        "if self.open_kind is None",
    ),
    Mutation(
        3,
        turn,
        "reasoning_of",
        "delta.reasoning_content or delta.reasoning\n",
        "delta.reasoning_content\n",
    ),
    Mutation(
        3,
        turn,
        "reasoning_of",
        "delta.reasoning_content or delta.reasoning\n",
        "(delta.reasoning_content or '') + (delta.reasoning or '')\n",
    ),
    fact(4, "forced_tools_need_no_thinking", False),
    fact(4, "forced_tools", "native"),
    Mutation(4, plan_frame, "plan_thinking", "is_on = False", "is_on = True"),
    Mutation(5, history, "to_upstream_id", "_OURS.fullmatch(tool_id)", "None"),
    Mutation(5, block_writer, "mint_id", "_encode_id(upstream_id)", "('r', upstream_id)"),
    fact(5, "tool_call_ids", "any"),
    Mutation(
        6,
        ToolCallAssembler,
        "_find",
        "if call_id and call.id and call_id != call.id",
        "if call.id and call_id != call.id",
    ),
    Mutation(6, ToolCallAssembler, "take", "fragment.index != self._last_index", "False"),
    Mutation(6, ChatTurn, "_take_choice", 'and choice.finish_reason != "null"', ""),
    Mutation(7, turn, "stop_reason_of", '"tool_use" if has_calls else "end_turn"', "reason"),
    Mutation(
        7,
        turn,
        "stop_reason_of",
        'if reason in ("end_turn", "tool_use")',
        'if has_calls or reason in ("end_turn", "tool_use")',
    ),
    Mutation(8, ChatTurn, "_take_chunk", 'if chunk.error or chunk.object == "error"', "if False"),
    Mutation(8, ChatTurn, "close", "if self._finish is None", "if False"),
    Mutation(
        8,
        ChatTurn,
        "_take_finish",
        "if reason is None",
        "reason = reason or 'end_turn'\n    if False",
    ),
    Mutation(9, usage, "usage_of_chat", "prompt - cached - written", "prompt - written"),
    Mutation(9, usage, "usage_of_chat", "wire.prompt_cache_hit_tokens", "0"),
    Mutation(9, usage, "usage_of_chat", "or wire.cached_tokens", ""),
    Mutation(10, ChatTurn, "_take_choice", "if choice.usage is not None", "if False"),
    Mutation(10, ChatTurn, "_take_chunk", "if chunk.usage is not None", "if False"),
    Mutation(
        10,
        usage.UsageMeter,
        "take",
        "usage_of_chat(wire, known)",
        "known.plus(usage_of_chat(wire, known))",
    ),
    fact(11, "temperature_max", 2.0),
    Mutation(11, settings, "_temperature", "min(asked, limit)", "asked"),
    fact(11, "top_p", True),
    fact(12, "tool_text", ()),
    Mutation(12, tool_text, "is_declared", 'found.slots["name"] in tools', "True"),
    fact(13, "max_output_tokens", None),
    fact(13, "context_window", None),
    Mutation(
        13,
        plan_frame,
        "plan_max_tokens",
        "allowed = min(allowed, max(room, floor))",
        "allowed = allowed",
    ),
    Mutation(13, ChatAsk, "_heal", "if isinstance(error, OutputTooLong)", "if False"),
    # -- promises
    Mutation("vault", vault, "_key", "[owner, model, call_id]", "[model, call_id]"),
    Mutation("vault", vault, "_key", "joined + digest", "joined"),
    Mutation("vault", ChatAsk, "_keep_reasoning", "if thinking and", "if not thinking and"),
    Mutation("mark", passthrough, "_is_marked", "has_our_mark(block.signature)", "True"),
    Mutation("mark", passthrough, "_is_marked", "not block.signature or ", ""),
    Mutation("tag", ReplyText, "_learn", ": begins_inside}", ": False}"),
    Mutation("tag", LearnedFacts, "apply", "if not facts", "if True"),
    Mutation("text", ToolTextCutter, "_take_text", "elif not self._code.is_code", "else"),
    Mutation("text", CodeTracker, "take_line", '">" in indent', "False"),
    Mutation("text", ToolTextCutter, "_take_behind", "not _END_OF_LINE.match(text)", "False"),
    fact("text", "tool_text", ()),
    Mutation("arguments", ToolCall, "_put_right", "if repaired is not None", "if False"),
    Mutation("arguments", RepairLog, "_add", "self.counts.get(kind, 0) + 1", "0"),
    Mutation("empty", ReplyRepairs, "ask_again", "_asked_for.append(lacks)", "_asked_for.clear()"),
    Mutation("cut", BlockWriter, "_end_call", "= arguments is None", "= False"),
    Mutation("single", BlockWriter, "add_call", "self.plan.single_tool_call", "False"),
    Mutation("forced", ReplyText, "_take_forced", "if self.blocks.has_calls", "if True"),
    Mutation("forced", turn, "find_lack", "sink.is_holding", "False"),
    Mutation("forced", turn, "find_lack", "plan.forced_by_choice", "False"),
    fact("schemas", "schema_types", False),
    Mutation("stops", stop_sequences, "_partial_match", "return at\n", "return len(text)\n"),
    Mutation("stops", StopMatcher, "feed", "min(found)", "max(found)"),
    Mutation("empty", turn, "find_lack", 'blocks.server_calls else "answer"', 'True else ""'),
    Mutation("empty", ChatAsk, "_ask_once_more", "= True", "= False"),
    Mutation("loops", guards, "count_repeats", "other == name", "False"),
    Mutation("loops", plan, "watch_repeats", "reminder=_reminder(name, count)", ""),
    Mutation("healing", LearnedFacts, "_add", "**facts", ""),
    Mutation("healing", ChatAsk, "_heal", "if not facts", "if True"),
    Mutation("counts", Calibration, "observe", "known.add", "abs"),
    Mutation("cost", attempts, "cost_micros", "exact + _TOKENS // 2", "exact"),
    Mutation("names", registry, "_find", '.replace(":", "-")', '.split(":")[0]'),
    Mutation("names", registry, "_find", ".casefold()", ""),
]


@contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Put the changed function in the place of the real one."""
    original = inspect.getattr_static(mutation.owner, mutation.function)
    changed = _compile(original, mutation)
    setattr(mutation.owner, mutation.function, changed)
    try:
        yield
    finally:
        setattr(mutation.owner, mutation.function, original)


def _compile(original: Callable[..., Any], mutation: Mutation) -> Callable[..., Any]:
    source = textwrap.dedent(inspect.getsource(original))
    found = source.count(mutation.old)
    assert found == 1, f"{mutation.function}: {mutation.old!r} stands there {found} times"
    made: dict[str, Any] = {}
    code = compile(source.replace(mutation.old, mutation.new), "<mutation>", "exec")
    exec(code, original.__globals__, made)
    return made[mutation.function]


def of_rule(rule: int | str) -> dict[str, Callable[[], None]]:
    """Return the tests that are named for a rule or a promise."""
    module, kind = (rules, "rule") if isinstance(rule, int) else (promises, "promise")
    return {n: t for n, t in vars(module).items() if n.startswith(f"test_{kind}_{rule}_")}


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=[f"{m.rule}-{m.function}-{n}" for n, m in enumerate(MUTATIONS)]
)
def test_a_broken_rule_is_noticed(mutation: Mutation) -> None:
    noticed = []
    with broken(mutation):
        for name, test in of_rule(mutation.rule).items():
            try:
                test()
            except Exception:  # however it fails, it fails
                noticed.append(name)
    assert noticed, f"no test of rule {mutation.rule} notices {mutation.new!r}"
    for name in noticed:
        of_rule(mutation.rule)[name]()  # and it was the mutation that it noticed


def test_every_rule_is_broken() -> None:
    broken_ones = {mutation.rule for mutation in MUTATIONS}
    assert {rule for rule in broken_ones if isinstance(rule, int)} == set(range(1, 14))
    promised = {m[1] for name in vars(promises) if (m := re.match(r"test_promise_([a-z]+)_", name))}
    assert {rule for rule in broken_ones if isinstance(rule, str)} == promised
    ruled = {int(m[1]) for name in vars(rules) if (m := re.match(r"test_rule_(\d+)_", name))}
    assert ruled == set(range(1, 14))


def test_a_mutation_that_changes_nothing_is_not_noticed() -> None:
    same = Mutation(4, thinking, "plan_thinking", "is_on = False", "is_on = bool(0)")
    with broken(same):
        for test in of_rule(4).values():
            test()
