"""The SQLite file beside other processes."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dragoman.store_urls import StoreUrl
from dragoman.stores.sql import SqlStore
from stores.test_usage_sql import DAY
from support.stores import new_record, with_store

_LOOK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(*database.execute("SELECT count(*) FROM usage_records"))
database.close()
"""


def test_another_process_that_looks_does_no_harm(tmp_path: Path) -> None:
    # Who closes any descriptor of the file gives up all locks of his process on it. The next one
    # who looks at it then takes himself for the last, and removes the log that is still in use.
    path = tmp_path / "store.db"

    async def case(store: SqlStore) -> None:
        await store.add_usage([new_record()])
        await asyncio.gather(*(store.usage(DAY) for _ in range(3)))  # connections are opened
        for n in range(2, 5):
            await store.add_usage([new_record()])
            command = [sys.executable, "-c", _LOOK, str(path)]
            look = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            seen, _ = await look.communicate()
            assert (seen, look.returncode) == (b"(%d,)\n" % n, 0)
            assert path.with_name("store.db-wal").exists()

    with_store(StoreUrl(path=path), case)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_what_root_makes_belongs_to_whom_the_folder_belongs(tmp_path: Path) -> None:
    folder = tmp_path / "of somebody"
    folder.mkdir(mode=0o700)
    os.chown(folder, 4242, 4243)

    async def case(store: SqlStore) -> None:
        await store.add_usage([new_record()])
        found = {path.name: path.stat() for path in folder.iterdir()}
        assert set(found) == {"store.db", "store.db-wal", "store.db-shm"}
        owners = {(each.st_uid, each.st_gid, each.st_mode & 0o777) for each in found.values()}
        assert owners == {(4242, 4243, 0o600)}

    with_store(StoreUrl(path=folder / "store.db"), case)
