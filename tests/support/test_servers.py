"""The real servers that other tests build on: started, cut, started again."""

import os
import socket

import pytest

from support import servers
from support.postgres import PostgresServer
from support.redis import RedisServer

pytestmark = pytest.mark.server


def test_a_postgres_that_is_cut_keeps_its_port_and_what_was_answered() -> None:
    with PostgresServer() as server:
        url = server.new_database()
        name = url.rsplit("/", 1)[1]
        server.run("CREATE TABLE kept AS SELECT 7 AS n", database=name)
        port, pid = server.port, server.pid
        server.kill()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        server.start()
        assert (server.port, server.pid == pid) == (port, False)
        assert [row["n"] for row in server.run("SELECT n FROM kept", database=name)] == [7]
        server.stop()
        server.start()


def test_a_redis_that_is_cut_keeps_its_port() -> None:
    with RedisServer() as server:
        port = server.port
        server.kill()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        server.start()
        assert server.port == port
        server.pause()
        server.resume()
        server.empty()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_DEBIAN", [])
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("DRAGOMAN_SERVERS", "/nowhere")
    monkeypatch.delenv("DRAGOMAN_REQUIRE_CLIENTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="!!!! real servers not run: no redis-server"):
        servers.find_program("redis-server")
    monkeypatch.setenv("DRAGOMAN_REQUIRE_CLIENTS", "1")
    with pytest.raises(pytest.fail.Exception, match="no postgres on the PATH nor in /nowhere"):
        servers.find_program("postgres")
    assert os.environ["DRAGOMAN_SERVERS"] == "/nowhere"
