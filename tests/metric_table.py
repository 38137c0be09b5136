"""Write the table of docs/metrics.md from the declarations of metrics.

python tests/metric_table.py
"""

from __future__ import annotations

from places import ROOT

from crysmetrics.metrics.registry import all_measures

PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- table: python tests/metric_table.py -->\n", "<!-- end of table -->\n"


def table() -> str:
    """Make the rows: key, direction, definition, and whether it depends on the number n."""
    lines = ["| key | | definition | depends on n |", "| --- | --- | --- | --- |"]
    for measure in all_measures().values():
        for metric in measure.metrics:
            arrow = "↑" if metric.better == "higher" else "↓"
            depends = "yes" if metric.biased else ""
            lines.append(f"| `{metric.key}` | {arrow} | {metric.definition} | {depends} |")
    return "\n".join(lines) + "\n"


def between(text: str) -> str:
    """Return what stands between the marks."""
    return text.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(between(text), table()), encoding="utf-8")
