"""Write deploy/grafana/dragoman.json, the dashboard, out of the list below: `make golden`."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "dragoman.json"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
_CHOSEN = 'instance=~"$instance"'
_MODEL = f'{_CHOSEN},model=~"$model",upstream=~"$upstream"'


def rate(name: str, by: str, chosen: str = _MODEL, unit_s: int = 1) -> str:
    """Return how fast a counter grows, summed over gateways."""
    query = f"sum by ({by}) (rate({name}{{{chosen}}}[$__rate_interval]))"
    return query if unit_s == 1 else f"{query} * {unit_s}"


def quantile(share: float, name: str, by: str = "", chosen: str = _MODEL) -> str:
    """Return a quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    inner = f"sum by ({labels}) (rate({name}_bucket{{{chosen}}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {inner})"


def total(name: str, by: str = "", chosen: str = _CHOSEN) -> str:
    """Return a gauge, summed over gateways."""
    return f"sum by ({by}) ({name}{{{chosen}}})" if by else f"sum({name}{{{chosen}}})"


# Row -> panels: title, unit, and per query its expression and legend.
_FAILED = f'sum(rate(dragoman_requests_total{{{_CHOSEN},status=~"5.."}}[$__rate_interval]))'
_ALL = f"sum(rate(dragoman_requests_total{{{_CHOSEN}}}[$__rate_interval]))"
_PROMPT = f'dragoman_tokens_total{{{_MODEL},kind=~"input|cache_.*"}}[$__rate_interval]'
_CACHED = f'dragoman_tokens_total{{{_MODEL},kind="cache_read"}}[$__rate_interval]'
ROWS: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {
    "Overview": [
        (
            "Requests",
            "reqps",
            [(rate("dragoman_requests_total", "status", _CHOSEN), "{{status}}")],
        ),
        ("Share of 5xx", "percentunit", [(f"({_FAILED} or vector(0)) / {_ALL}", "5xx")]),
        (
            "Errors by type",
            "reqps",
            [(rate("dragoman_requests_total", "error", f'{_CHOSEN},error!=""'), "{{error}}")],
        ),
        (
            "Open",
            "short",
            [
                (total("dragoman_open_streams"), "streams"),
                (total("dragoman_open_requests"), "requests"),
                (total("dragoman_client_connections"), "connections of clients"),
            ],
        ),
        (
            "Cost per hour",
            "currencyUSD",
            [(rate("dragoman_cost_dollars_total", "model", unit_s=3600), "{{model}}")],
        ),
        ("Tokens", "short", [(rate("dragoman_tokens_total", "kind"), "{{kind}}")]),
    ],
    "Speed": [
        (
            "First content, median",
            "s",
            [(quantile(0.5, "dragoman_first_content_seconds", "model"), "{{model}}")],
        ),
        (
            "First content, 95 %",
            "s",
            [(quantile(0.95, "dragoman_first_content_seconds", "model"), "{{model}}")],
        ),
        (
            "Whole message, 95 %",
            "s",
            [(quantile(0.95, "dragoman_message_duration_seconds", "model"), "{{model}}")],
        ),
        (
            "Event loop late, 99 %",
            "s",
            [
                (
                    quantile(0.99, "dragoman_event_loop_lag_seconds", "instance", _CHOSEN),
                    "{{instance}}",
                )
            ],
        ),
        (
            "Prompt tokens from caches",
            "percentunit",
            [(f"sum(rate({_CACHED})) / sum(rate({_PROMPT}))", "cached")],
        ),
        (
            "Thinking tokens",
            "short",
            [(rate("dragoman_thinking_tokens_total", "model"), "{{model}}")],
        ),
    ],
    "Upstreams": [
        (
            "Calls by outcome",
            "reqps",
            [
                (
                    rate("dragoman_upstream_calls_total", "upstream, outcome", _CHOSEN),
                    "{{upstream}} {{outcome}}",
                )
            ],
        ),
        (
            "Calls under way",
            "short",
            [(total("dragoman_upstream_calls_open", "upstream"), "{{upstream}}")],
        ),
        (
            "Connections",
            "short",
            [(total("dragoman_upstream_connections", "upstream, state"), "{{upstream}} {{state}}")],
        ),
        (
            "Left alone, for how long",
            "s",
            [
                (
                    f"max by (subject, cause) (dragoman_upstream_left_alone_seconds{{{_CHOSEN}}})",
                    "{{subject}}: {{cause}}",
                )
            ],
        ),
        (
            "Left alone, how often it begins",
            "short",
            [(rate("dragoman_upstream_trips_total", "cause", _CHOSEN), "{{cause}}")],
        ),
        (
            "Second calls, shared replies",
            "reqps",
            [
                (rate("dragoman_hedges_total", "what", _CHOSEN), "second calls {{what}}"),
                (rate("dragoman_joined_requests_total", "job", _CHOSEN), "shared replies"),
            ],
        ),
    ],
    "Fidelity": [
        (
            "Adjustments",
            "short",
            [
                (
                    rate(
                        "dragoman_adjustments_total", "field, action", f'{_CHOSEN},model=~"$model"'
                    ),
                    "{{field}} {{action}}",
                )
            ],
        ),
        (
            "Repairs",
            "short",
            [
                (
                    rate("dragoman_repairs_total", "model, kind", f'{_CHOSEN},model=~"$model"'),
                    "{{model}} {{kind}}",
                )
            ],
        ),
        (
            "How messages end",
            "reqps",
            [(rate("dragoman_stop_reasons_total", "reason"), "{{reason}}")],
        ),
        (
            "Estimate of prompts off by, median",
            "percentunit",
            [(quantile(0.5, "dragoman_estimate_error_ratio", "model"), "{{model}}")],
        ),
        (
            "Messages without counts or price",
            "reqps",
            [
                (rate("dragoman_estimated_messages_total", "model"), "{{model}}: not counted"),
                (rate("dragoman_unpriced_messages_total", "model"), "{{model}}: no price"),
            ],
        ),
    ],
    "Limits": [
        (
            "Refused by limits and budgets",
            "reqps",
            [(rate("dragoman_limit_refusals_total", "limit", _CHOSEN), "{{limit}}")],
        ),
        (
            "In line",
            "short",
            [(total("dragoman_requests_waiting", "upstream"), "{{upstream}}")],
        ),
        (
            "Turned away",
            "reqps",
            [(rate("dragoman_requests_turned_away_total", "upstream", _CHOSEN), "{{upstream}}")],
        ),
        (
            "Held by requests at work",
            "short",
            [(total("dragoman_limit_reservations"), "reservations")],
        ),
        (
            "Without shared counters",
            "short",
            [
                (f"max(dragoman_limits_alone{{{_CHOSEN}}})", "alone"),
                (rate("dragoman_limits_alone_total", "job", _CHOSEN), "requests"),
            ],
        ),
        (
            "Redis",
            "short",
            [
                (f"max(dragoman_redis_away{{{_CHOSEN}}})", "away"),
                (rate("dragoman_redis_failed_calls_total", "job", _CHOSEN), "failed calls"),
                (rate("dragoman_redis_lost_total", "job", _CHOSEN), "lost"),
            ],
        ),
    ],
    "State": [
        (
            "Usage records",
            "short",
            [(rate("dragoman_usage_records_total", "fate", _CHOSEN), "{{fate}}")],
        ),
        (
            "Usage on its way",
            "bytes",
            [
                (total("dragoman_usage_spool_bytes"), "on disk"),
                (total("dragoman_usage_held"), "records in memory"),
            ],
        ),
        (
            "Store",
            "short",
            [
                (f"max(dragoman_usage_store_away{{{_CHOSEN}}})", "takes no usage"),
                (f"max(dragoman_store_away{{{_CHOSEN}}})", "does not answer"),
                (total("dragoman_keys_remembered"), "keys remembered"),
                (rate("dragoman_key_lookups_total", "outcome", _CHOSEN), "look-ups {{outcome}}"),
            ],
        ),
        (
            "Memory",
            "bytes",
            [
                (total("dragoman_memory_bytes", "instance"), "{{instance}}"),
                (total("dragoman_vault_bytes", "instance"), "{{instance}}: kept thinking"),
            ],
        ),
        (
            "Kept thinking",
            "short",
            [
                (total("dragoman_vault_entries", "instance"), "{{instance}}"),
                (
                    rate("dragoman_vault_fetches_total", "outcome", _CHOSEN),
                    "elsewhere: {{outcome}}",
                ),
            ],
        ),
        (
            "Processes and configurations",
            "short",
            [
                (total("dragoman_workers", "instance"), "{{instance}}: processes"),
                (
                    f"sum by (result) (increase(dragoman_config_reloads_total{{{_CHOSEN}}}[1h]))",
                    "reloads {{result}}",
                ),
                (f"count by (version) (dragoman_build_info{{{_CHOSEN}}})", "{{version}}"),
            ],
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "dragoman",
        "title": "Dragoman",
        "tags": ["dragoman", "llm"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    queries = {
        "instance": "label_values(dragoman_build_info, instance)",
        "model": "label_values(dragoman_message_duration_seconds_count, model)",
        "upstream": "label_values(dragoman_message_duration_seconds_count, upstream)",
    }
    choices = [
        {
            "name": name,
            "type": "query",
            "datasource": source,
            "query": {"query": query, "refId": name},
            "definition": query,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
            "current": {"text": "All", "value": "$__all"},
        }
        for name, query in queries.items()
    ]
    return [{"name": "datasource", "type": "datasource", "query": "prometheus"}, *choices]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row, contents in ROWS.items():
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": place})
        y += 1
        per_line = _COLUMNS // _WIDTH
        for number, (title, unit, queries) in enumerate(contents):
            x, line = number % per_line * _WIDTH, number // per_line
            place = {"x": x, "y": y + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_panel(len(panels) + 1, title, unit, queries, place))
        y += -(-len(contents) // per_line) * _HEIGHT
    return panels


def _panel(
    number: int, title: str, unit: str, queries: list[tuple[str, str]], place: dict[str, int]
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(65 + n), "datasource": source, "expr": query, "legendFormat": legend}
            for n, (query, legend) in enumerate(queries)
        ],
    }


def main() -> None:
    """Write the file."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
