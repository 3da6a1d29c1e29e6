"""The metrics of the plugin, as data."""

from __future__ import annotations

from sltcore.plugin import Component

BUILD = "slt_sql_rerank.metrics.build_metrics"
CONFIG = "slt_sql_rerank.config_metrics"
SCRIPT = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER);
INSERT INTO singer VALUES (1, 'Ada', 30), (2, 'Bo', 20), (3, 'Cy', 20);
"""
REFERENCES = (
    "SELECT name FROM singer WHERE age > 20",
    "SELECT count(*) FROM singer",
    "SELECT name FROM singer ORDER BY age LIMIT 1",
    "SELECT DISTINCT age FROM singer",
    "SELECT name FROM singer WHERE id IN (SELECT id FROM singer WHERE age > 20)",
    "SELECT name FROM singer WHERE age > 1 AND id IN (SELECT id FROM singer WHERE age > 20)",
)
OUTPUTS = (
    "SELECT name FROM singer WHERE age > 25",
    "SELECT count(*) FROM singer",
    "DROP TABLE singer",
    "SELECT age FROM singer",
    "SELECT name FROM singer WHERE id IN (SELECT id FROM singer WHERE age > 20)",
    "SELECT name FROM singer",
)

COMPONENTS: tuple[Component, ...] = (
    Component(
        "metric",
        "exact-match",
        impl=f"{BUILD}:exact_match",
        config=f"{CONFIG}:ExactMatchConfig",
        summary="exact set match of SQL, as Spider's scorer counts it and in a strict form",
        source="arXiv:1809.08887",
        small={"config": {"script": SCRIPT, "by_hardness": True}, "outputs": OUTPUTS, "references": REFERENCES},
    ),
    Component(
        "metric",
        "execution",
        impl=f"{BUILD}:execution",
        config=f"{CONFIG}:ExecutionConfig",
        summary="execution accuracy of SQL, run in a sandbox, as Spider's scorer counts it and in a strict form",
        source="arXiv:1809.08887",
        small={"config": {"script": SCRIPT, "by_hardness": True}, "outputs": OUTPUTS, "references": REFERENCES},
    ),
    Component(
        "metric",
        "test-suite",
        impl=f"{BUILD}:suite",
        config=f"{CONFIG}:ExecutionConfig",
        summary="execution accuracy on every database of a suite, each with other rows",
        source="arXiv:2010.02840",
        small={"config": {"script": SCRIPT}, "outputs": OUTPUTS, "references": REFERENCES},
    ),
)
