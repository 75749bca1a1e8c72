"""The rows of the page about the API, and the requests that they are probed with."""

import json
from typing import Any

from tools.make_api_page import Row, read_tables

from support.plans import assistant, call, result, text, user

TABLES = read_tables()
REQUESTS: dict[str, Row] = {
    f"{name}: {row.item}": row
    for name, table in TABLES.items()
    if table.kind == "request"
    for row in table.rows
}


def fields_of(row: Row) -> dict[str, Any]:
    """Return what the row's probe puts over the smallest request."""
    fields: dict[str, Any] = json.loads(row.probe)
    if row.tool is not None:
        fields["tools"] = [json.loads(row.tool)]
    if row.user is not None:
        fields["messages"] = [user(*json.loads(row.user))]
    if row.assistant is not None:
        said = assistant(*json.loads(row.assistant), text("A"))
        fields["messages"] = [user("Hi"), said, user("Go on")]
    if row.result is not None:
        answer = result("z", json.loads(row.result))
        fields["messages"] = [user("Hi"), assistant(call("z")), user(answer)]
    return fields
