"""The spool: in order, cut anywhere, bounded, and handed on from the dead to the living."""

import os
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.policy.records import UsageRecord
from dragoman.settings import Secret
from dragoman.store_urls import StoreUrl, read_store_url
from dragoman.stores import usage_spool
from dragoman.stores.folder_claims import FolderClaim, dead_claims
from dragoman.stores.usage_lines import decode_lines, encode_lines
from dragoman.stores.usage_spool import (
    SpoolFull,
    UsageSpool,
    spool_folder,
    sync_segments,
    waiting_bytes,
)
from support.stores import usage_record

AT_MS = 1_795_615_391_482
MANY_BYTES = 2**20


def a_record(number: int, **changes: object) -> UsageRecord:
    return usage_record(id=f"req_{number}", started_ms=AT_MS, **changes)


def records(*numbers: int) -> list[UsageRecord]:
    return [a_record(number) for number in numbers]


def new_spool(root: Path, *, max_bytes: int = MANY_BYTES, **options: int) -> UsageSpool:
    return UsageSpool(root, max_bytes=max_bytes, **options)


def drain(spool: UsageSpool) -> list[str]:
    """Read everything as the meter does, return the ids."""
    ids: list[str] = []
    while (segment := spool.oldest()) is not None:
        ids += [record.id for record in spool.read(segment).records]
        spool.remove(segment)
    return ids


def ids(*numbers: int) -> list[str]:
    return [f"req_{number}" for number in numbers]


FULL = a_record(
    1,
    key_name="adä",
    workspace_id="wrkspc_1",
    session_id="s",
    agent_id="a",
    client="claude-cli",
    client_version="2.1.330",
    model="模型\n",
    upstream="lab",
    upstream_model="real",
    is_stream=True,
    input_tokens=2**40,
    cost_micros=2**62,
    first_content_ms=5,
    status=200,
    adjustments=("top_k dropped",),
    repairs={"type": 2},
)


def test_lines_come_back_as_they_were() -> None:
    lines = decode_lines(encode_lines([FULL, *records(2, 3)]))
    assert lines.records == (FULL, *records(2, 3))
    assert (lines.is_cut, lines.n_broken) == (False, 0)


@given(st.integers(0, 4000))
def test_lines_may_be_cut_anywhere(cut: int) -> None:
    given_records = [FULL, *records(*range(2, 20))]
    data = (encode_lines(given_records[:3]) + encode_lines(given_records[3:]))[:cut]
    lines = decode_lines(data)
    assert list(lines.records) == given_records[: (0, 3, 19)[data.count(b"\n")]]
    assert lines.is_cut == (bool(data) and not data.endswith(b"\n"))
    assert lines.n_broken == 0


@given(st.integers(0, 600), st.binary(min_size=1, max_size=20))
def test_a_damaged_line_costs_no_other(at: int, damage: bytes) -> None:
    first, second, third = (encode_lines(records(number)) for number in (1, 2, 3))
    at %= len(second) - 1
    broken = second[:at] + damage + second[at + len(damage) : -1] + b"\n"
    lines = decode_lines(first + broken + third)
    found = [record.id for record in lines.records]
    assert found[0] == "req_1"
    assert found[-1] == "req_3"
    assert lines.n_broken == 0 or "req_2" not in found


def test_a_line_of_a_later_version_is_told_apart_from_a_cut_one() -> None:
    for body in (b"[5]", b'[["req_1",5,"facts",0]]', b'[["req_1",5,[5],0]]', b"[]"):
        lines = decode_lines(b"%08x %b\n" % (zlib.crc32(body), body))
        assert (lines.records, lines.n_broken, lines.is_cut) == ((), 1, False)


def test_lines_of_earlier_gateways_are_read() -> None:
    body = (
        b'["req_1",1795615391482,"apikey_1","ad\xc3\xa4","wrkspc_1","s","a","claude-cli","2.1.330",'
        b'"\xe6\xa8\xa1\xe5\x9e\x8b\\n","lab","real",true,1099511627776,0,0,0,0,4611686018427387904,5,0,0,"",200,"",'
        b'["top_k dropped"],{"type":2}]'
    )
    lines = decode_lines(b"%08x %b\n" % (zlib.crc32(body), body))
    assert (lines.records, lines.n_broken, lines.is_cut) == ((FULL,), 0, False)


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool", segment_bytes=500)
    for number in range(0, 20, 2):
        spool.append(records(number, number + 1))
    assert drain(spool) == ids(*range(20))
    assert spool.waiting_bytes == 0
    spool.close()
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="!!!! rights of POSIX")
def test_folders_that_are_made_are_for_their_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = tmp_path / "data" / "usage-spool" / "sqlite"
    new_spool(root).append(records(1))
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 4
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
    assert tmp_path.stat().st_mode & 0o777 == 0o755  # was there before


def test_nothing_is_made_where_nothing_is_appended(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    assert spool.adopt() == 0
    assert spool.oldest() is None
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_appending_goes_on_while_a_segment_is_read(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.append(records(1))
    segment = spool.oldest()
    assert segment is not None
    spool.append(records(2))
    assert spool.oldest() is segment
    spool.remove(segment)
    assert drain(spool) == ids(2)


def test_only_what_was_written_last_is_still_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = new_spool(tmp_path, segment_bytes=1)
    for number in range(3):
        spool.append(records(number))
    monkeypatch.setattr(usage_spool, "decode_lines", lambda data: decoded.append(data) or found)
    decoded: list[bytes] = []
    found = decode_lines(encode_lines(records(9)))
    assert drain(spool) == ids(9, 9, 2)
    assert len(decoded) == 2


def test_what_is_not_removed_comes_again(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.append(records(1))
    for _ in range(2):
        segment = spool.oldest()
        assert segment is not None
        assert [record.id for record in spool.read(segment).records] == ids(1)
    assert drain(spool) == ids(1)


def test_a_full_spool_refuses_whole_batches_and_takes_more_later(tmp_path: Path) -> None:
    size = len(encode_lines(records(1, 2))) + len(encode_lines(records(5)))
    spool = new_spool(tmp_path, max_bytes=size)
    spool.append(records(1, 2))
    with pytest.raises(SpoolFull, match="wait for the store"):
        spool.append(records(3, 4))
    spool.append(records(5))
    assert spool.waiting_bytes == size == waiting_bytes(tmp_path)
    assert drain(spool) == ids(1, 2, 5)
    spool.append(records(6))
    assert drain(spool) == ids(6)


def test_a_disk_that_breaks_off_leaves_no_half_batch(tmp_path: Path, monkeypatch) -> None:
    spool = new_spool(tmp_path)
    spool.append(records(1))
    write = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data[: len(data) - 50]))

    monkeypatch.setattr(usage_spool.os, "write", write_half)
    with pytest.raises(OSError, match="No space left"):
        spool.append(records(2, 3))
    monkeypatch.undo()
    spool.append(records(2, 3))
    segment = spool.oldest()
    assert segment is not None
    assert spool.read(segment).n_broken == 0
    assert not spool.read(segment).is_cut
    assert drain(spool) == ids(1, 2, 3)
    assert spool.waiting_bytes == 0


def test_a_full_disk_leaves_no_segment_without_records(tmp_path: Path, monkeypatch) -> None:
    spool = new_spool(tmp_path)
    monkeypatch.setattr(usage_spool.os, "write", _no_space)
    for number in range(3):
        with pytest.raises(OSError, match="No space left"):
            spool.append(records(number))
        assert spool.oldest() is None
    assert list(tmp_path.rglob("*.usage")) == []
    monkeypatch.undo()
    spool.append(records(4))
    assert drain(spool) == ids(4)


def _no_space(_descriptor: int, _data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = new_spool(tmp_path / "file" / "spool")
    with pytest.raises(OSError, match="Not a directory"):
        spool.append(records(1))
    assert spool.adopt() == 0
    spool.close()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    spool = new_spool(tmp_path / "spool")
    sync_segments([spool.append(records(1)), tmp_path / "taken by the store"])
    (folder,) = (tmp_path / "spool").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_an_odd_segment_is_kept_under_another_name(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.append(records(1))
    segment = spool.oldest()
    assert segment is not None
    spool.set_aside(segment)
    assert (spool.oldest(), spool.waiting_bytes) == (None, 0)
    spool.close()
    left = [path.name for path in tmp_path.glob("*/*") if path.name != "lock"]
    assert left == ["00000001.odd"]
    assert new_spool(tmp_path).adopt() == 0


# -- from the dead to the living

_APPEND = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from stores.test_usage_spool import new_spool, records
spool = new_spool(Path({root!r}), segment_bytes=200)
for number in range({n}):
    spool.append(records(number))
print("ready", flush=True)
time.sleep(60)
"""


def start_process(root: Path, n: int) -> subprocess.Popen[str]:
    code = _APPEND.format(path=sys.path, root=str(root), n=n)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_process_left_is_adopted_once(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    process = start_process(tmp_path, n=5)
    assert spool.adopt() == 0  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    other = new_spool(tmp_path)
    found = spool.adopt()
    assert found >= 2
    assert spool.waiting_bytes == waiting_bytes(tmp_path) > 0
    assert other.adopt() == 0  # it is ours now
    spool.append(records(9))
    assert drain(spool) == ids(0, 1, 2, 3, 4, 9)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_cut_line_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    first = new_spool(tmp_path)
    first.append(records(1))
    first.append(records(2))
    first.close()
    (path,) = tmp_path.glob("*/*.usage")
    os.truncate(path, path.stat().st_size - 10)
    spool = new_spool(tmp_path)
    assert spool.adopt() == 1
    assert drain(spool) == ids(1)


def test_what_is_left_at_the_end_goes_to_the_next_process(tmp_path: Path) -> None:
    first = new_spool(tmp_path)
    first.append(records(1))
    assert first.oldest() is not None
    first.append(records(2))
    first.close()
    second = new_spool(tmp_path)
    assert second.adopt() == 2
    second.close()  # it had no time, either
    third = new_spool(tmp_path)
    assert third.adopt() == 2
    assert drain(third) == ids(1, 2)
    third.close()
    assert list(tmp_path.iterdir()) == []


def test_adopted_segments_count_for_the_bound(tmp_path: Path) -> None:
    size = len(encode_lines(records(1)))
    first = new_spool(tmp_path)
    first.append(records(1, 2))
    first.close()
    second = new_spool(tmp_path, max_bytes=2 * size)
    second.adopt()
    with pytest.raises(SpoolFull):
        second.append(records(3))


def test_a_folder_has_one_owner_among_many_who_want_it(tmp_path: Path) -> None:
    root = tmp_path
    for _ in range(30):
        FolderClaim.make(root).release()
    made: list[FolderClaim] = []
    taken: list[FolderClaim] = []
    start = threading.Barrier(4)

    def make() -> None:
        start.wait()
        made.extend(FolderClaim.make(root) for _ in range(40))

    def look() -> None:
        start.wait()
        for _ in range(200):
            for claim in dead_claims(root):
                taken.append(claim)
                claim.release()

    threads = [threading.Thread(target=work) for work in (make, make, look, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claim.path for claim in made}) == 80
    assert all(claim.path.is_dir() for claim in made)
    assert [FolderClaim.take(claim.path) for claim in made] == [None] * 80
    for claim in made:
        claim.release()
    assert list(root.iterdir()) == []


def test_a_folder_taken_while_it_is_given_up_stays(tmp_path: Path, monkeypatch) -> None:
    given_up, close, taken = FolderClaim.make(tmp_path), os.close, list[FolderClaim]()

    def close_late(descriptor: int) -> None:
        monkeypatch.setattr(os, "close", close)
        taken.extend(filter(None, [FolderClaim.take(given_up.path)]))
        close(descriptor)

    monkeypatch.setattr(os, "close", close_late)
    given_up.release()
    [claim] = taken
    assert claim.path.is_dir()
    assert FolderClaim.take(claim.path) is None, "it is held"
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_each_store_has_a_spool_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    urls = [
        StoreUrl(path=tmp_path / "a.db"),
        StoreUrl(path=tmp_path / "b.db"),
        read_store_url(Secret("postgresql://u:p@h/one"), tmp_path),
        read_store_url(Secret("postgresql://u:p@h/two"), tmp_path),
        read_store_url(Secret("postgresql://u:p@other/one"), tmp_path),
    ]
    folders = {spool_folder(tmp_path, url) for url in urls if url is not None}
    assert len(folders) == 5
    assert {folder.parent for folder in folders} == {tmp_path / "usage-spool"}
    assert spool_folder(tmp_path, StoreUrl(path=Path("a.db"))) in folders
    again = read_store_url(Secret("postgresql://u:another-password@h/one"), tmp_path)
    assert again is not None
    assert spool_folder(tmp_path, again) in folders
