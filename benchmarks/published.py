"""Where benchmarks leave what they found: results/NAME.md to read, results/NAME.json to compare."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def publish(name: str, text: str, record: dict[str, Any]) -> None:
    """Prints the page of a benchmark, and writes it beside its figures."""
    print("\n" + text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
