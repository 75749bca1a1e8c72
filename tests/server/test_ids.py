"""Ids: never the same twice, not even in two processes that were one."""

import os
import re

from dragoman.server.ids import new_message_id, new_nonce, new_request_id


def test_ids_have_their_form_and_differ() -> None:
    ids = [new_request_id() for _ in range(5000)]  # many times what is drawn at once
    assert len(set(ids)) == 5000
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", each) for each in ids)
    assert re.fullmatch(r"msg_[0-9a-f]{24}", new_message_id())
    nonces = [new_nonce() for _ in range(2000)]
    assert len(set(nonces)) == 2000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", each) for each in nonces)


def test_a_child_process_draws_anew() -> None:
    new_request_id()  # so that there are drawn bytes left
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as file:
        assert file.read() not in {new_request_id() for _ in range(400)}
