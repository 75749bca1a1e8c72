"""Lines of the log: one per event, for people or as JSON, and never in the way of a request."""

import asyncio
import io
import json
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from dragoman.core.adjustments import Adjustment
from dragoman.core.usage import Usage
from dragoman.server.log_lines import Clock
from dragoman.server.telemetry import EventLog, RequestRecord
from support.loops import on_each_loop


def lines(log_format: Literal["human", "json"], record: RequestRecord) -> str:
    stream = io.StringIO()
    EventLog(log_format, stream).request(record, 1.0)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


def record(**fields: Any) -> RequestRecord:
    return RequestRecord("req_1", "POST", fields.pop("path", "/v1/messages"), **fields)


def test_a_line_for_people_leaves_out_what_is_empty() -> None:
    line = lines("human", record(status=200, model="m", usage=Usage(3, output_tokens=2)))
    assert " request request_id=req_1 method=POST path=/v1/messages status=200 model=m " in line
    assert "input_tokens=3 output_tokens=2" in line
    for absent in ("upstream", "error", "adjustments", "first_content_ms", "cache"):
        assert absent not in line


def test_lists_and_blanks_are_quoted_for_people() -> None:
    said = (Adjustment("top_k", "dropped", "not known"), Adjustment("x", "clamped", "to 3"))
    line = lines("human", record(adjustments=said, error_detail="two words"))
    assert 'adjustments="top_k dropped: not known; x clamped: to 3"' in line
    assert 'detail="two words"' in line


def test_a_value_cannot_say_another_ones_part_for_people() -> None:
    line = lines("human", record(model='m" status="200', error_detail='no "x"\\'))
    assert r' model="m\" status=\"200" ' in line
    assert r' detail="no \"x\"\\" ' in line
    assert r" model=a\b " in lines("human", record(model="a\\b"))


def test_counts_have_names() -> None:
    repairs = {"type": 2, "text.hermes": 1}
    assert " repairs=type:2,text.hermes:1\n" in lines("human", record(repairs=repairs))
    assert json.loads(lines("json", record(repairs=repairs)))["repairs"] == repairs


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "a\0b", "a\u2028b", "a\udc80b"])
@pytest.mark.parametrize("log_format", ["human", "json"])
def test_nothing_in_a_line_can_end_it_or_colour_it(
    text: str, log_format: Literal["human", "json"]
) -> None:
    line = lines(log_format, record(path=f"/{text}", model=text, error_detail=text))
    assert line[:-1].isprintable()
    line.encode()  # can be written


def test_a_line_in_json_has_types() -> None:
    line = json.loads(lines("json", record(status=404, is_stream=True, first_content_s=0.5)))
    assert (line["event"], line["status"], line["stream"]) == ("request", 404, True)
    assert line["time"].endswith("+00:00")
    assert isinstance(line["first_content_ms"], int)


def test_names_that_clients_make_up_are_bounded() -> None:
    line = json.loads(lines("json", record(path="/" + "x" * 5000, model="y" * 5000)))
    assert len(line["path"]) == len(line["model"]) == 300


def test_a_crash_shows_places_and_no_values() -> None:
    stream = io.StringIO()
    secret = "PRIVATE"[::-1]
    try:
        raise ValueError(secret)
    except ValueError as error:
        EventLog("json", stream).crash(error, request_id="req_1")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["request_id"]) == ("crash", "req_1")
    assert "test_telemetry.py" in line["traceback"]
    assert line["traceback"].endswith("builtins.ValueError")
    assert secret not in stream.getvalue()


class Full(io.StringIO):
    """A pipe that nobody reads, or a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_ends_no_request() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, Full()):
        EventLog("human", stream).event("listening", url="http://127.0.0.1")


@on_each_loop
async def test_lines_of_requests_are_held_and_none_is_lost() -> None:
    stream = io.StringIO()
    log = EventLog("json", stream, hold_s=60.0)
    log.request(record(status=200), 1.0)
    assert stream.getvalue() == ""
    log.event("stopping")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "request",
        "stopping",
    ]
    for _ in range(300):
        log.request(record(status=200), 1.0)
    assert stream.getvalue().count("\n") == 258  # so many are not held
    log.flush()
    assert stream.getvalue().count("\n") == 302


@on_each_loop
async def test_held_lines_are_written_in_time() -> None:
    stream = io.StringIO()
    log = EventLog("json", stream, hold_s=0.01)
    log.request(record(status=200), 1.0)
    async with asyncio.timeout(30):
        while not stream.getvalue():  # noqa: ASYNC110 - there is no event: it is about time
            await asyncio.sleep(0.01)
    assert json.loads(stream.getvalue())["status"] == 200


@pytest.mark.parametrize("name", ["naïve", "模型", "\U0001f600", "half \ud83d", "\x00\x7f"])
def test_json_lines_are_ascii_and_say_the_name(name: str) -> None:
    line = lines("json", record(model=name))
    assert line.isascii()
    shown = json.loads(line)["model"]
    assert shown == name or (shown == "half \\ud83d" and "half" in name)


@pytest.mark.parametrize("at_s", [0.0, 1.5, 1764103017.25, 1764103017.999, 1764103018.0])
def test_a_time_is_shown_to_the_millisecond(at_s: float) -> None:
    clock = Clock()
    for seen_s in (1764103017.25, at_s, at_s + 0.0013):
        shown = datetime.fromtimestamp(seen_s, UTC).isoformat(timespec="milliseconds")
        assert clock.show(seen_s) == shown


@pytest.mark.parametrize("log_format", ["human", "json"])
@on_each_loop
async def test_lines_that_were_held_say_what_each_says_alone(
    log_format: Literal["human", "json"],
) -> None:
    records = [record(model=name, status=200) for name in ("plain", "naïve", "half \ud83d")]
    stream = io.StringIO()
    log = EventLog(log_format, stream, hold_s=60.0)
    for each in records:
        log.request(each, 1.0)
    log.flush()
    alone = [lines(log_format, each) for each in records]
    begin = len("HH:MM:SS" if log_format == "human" else '{"time":"2026-11-25T20:36:17.000+00:00"')
    shown = stream.getvalue().splitlines(keepends=True)
    assert [line[begin:] for line in shown] == [line[begin:] for line in alone]
