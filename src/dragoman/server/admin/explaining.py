"""GET and POST /admin/v1/explain: what would become of a request, for administrators."""

from dragoman.server.admin.operations import Ask, Operation
from dragoman.server.explain import Explainer, Explanation


def explain_operations(explainer: Explainer, *, max_body_bytes: int) -> list[Operation]:
    """
    Return the operation, twice: the body is that of a request for a message, and a GET may have
    one, too.

    Args:
        explainer: Explains.
        max_body_bytes: Of a request for a message.
    """

    async def explain(ask: Ask) -> Explanation:
        return await explainer.explain(ask.body, ask.headers)

    return [
        Operation(
            method=method,
            path="/admin/v1/explain",
            role="read",
            about="Say what would become of a request for a message, without sending it.",
            run=explain,
            result=Explanation,
            max_body_bytes=max_body_bytes,
        )
        for method in ("GET", "POST")
    ]
