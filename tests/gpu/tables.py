"""Tables of `make gpu` in the documents, between markers; predictions beside measurements.

A page takes part by holding `<!-- gpu NAME -->` and `<!-- end gpu NAME -->`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.gpu import runner

PREDICTIONS = Path(__file__).with_name("predictions.json")
NOT_YET = "Nothing measured yet: `make gpu` on a machine with a GPU fills this in."
Results = Mapping[str, Any]


def write(output: Path, docs: Path) -> None:
    """Puts the tables of the results in `output` into the pages of `docs`, and into tables.md."""
    tables = render(read(output))
    for page in sorted(docs.glob("*.md")):
        text = page.read_text()
        new = replace(text, tables)
        if new != text:
            page.write_text(new)
            print(f"{page}: tables written")
    if output.is_dir():
        (output / "tables.md").write_text("\n\n".join(tables.values()) + "\n")


def read(output: Path) -> Results:
    """All results of a folder by stage; the outcomes as "summary"."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(output.glob("*.json"))}


def replace(text: str, tables: Mapping[str, str]) -> str:
    """A page's text with its tables between their markers; no figure gives way to none."""
    for name, table in tables.items():
        begin, end = re.escape(f"<!-- gpu {name} -->"), re.escape(f"<!-- end gpu {name} -->")
        found = re.search(f"{begin}\n(.*?){end}", text, re.DOTALL)
        if found and not (table == NOT_YET and found[1].strip()):
            text = f"{text[: found.start(1)]}\n{table}\n\n{text[found.end(1) :]}"
    return text


def render(results: Results) -> dict[str, str]:
    """Each table by name, in Markdown."""
    where = _where(results)
    made = {"splat": _splat(results), "models": _models(results), "checks": _checks(results)}
    return {name: f"{where}\n\n{table}" if table else NOT_YET for name, table in made.items()}


def _where(results: Results) -> str:
    found = results.get("device")
    if not found:
        return ""
    return f"Measured on {found['device']} ({found['nvidia_smi']}), JAX {found['jax']}."


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def _splat(results: Results) -> str:
    predicted = json.loads(PREDICTIONS.read_text())
    measured = {}
    for name in ("splat-1", "splat-2"):
        measured |= results.get(name, {})
    head = [
        "microseconds",
        "direction",
        "`pallas`, predicted",
        "`pallas`",
        "launches",
        "`xla`",
        "dense",
    ]
    rows = []
    for shape, found in measured.items():
        for way in ("forward", "forward+backward"):
            guess = predicted.get(shape, {}).get(way)
            cells = [shape, way, f"{guess[0]:.1f} .. {guess[1]:.1f}" if guess else "not"]
            times = {
                form: found.get(form, {}).get(way) for form in ("pallas", "xla", "dense", "literal")
            }
            pallas = times.pop("pallas")
            cells += [_microseconds(pallas), f"{pallas['events']:.0f}" if pallas else ""]
            rows.append(cells + [_microseconds(t) for t in times.values()])
    return _table([*head, "one thread a pixel or token"], rows)


def _microseconds(times: Mapping[str, Any] | None) -> str:
    """Time on the device; of many calls in a row, marked, where the profile had none."""
    if times is None:
        return "not measured"
    if times["device"] is None:
        return f"{times['wall']:.1f} (wall)"
    return f"{times['device']:.1f}"


def _models(results: Results) -> str:
    parts = []
    rows = [
        [f"{r['dtype']}, batch {r['batch']}", f"{r['images_per_second']:.1f}",
         "" if r["mfu"] is None else f"{r['mfu']:.1%}", f"{r['gflop']:,.0f}",
         f"{r['device_memory_gb']:.1f} GB" if "device_memory_gb" in r else ""]
        for name, r in results.items() if name.startswith("training-")
    ]  # fmt: skip
    head = ["training GPSToken-M128", "images/s", "of the bfloat16 peak", "GFLOP a step", "memory"]
    parts.append(_table(head, rows))
    for name, title in (("coding", "GPSToken-M128"), ("partition", "partition")):
        rows = [[key, f"{r['images_per_second']:,.0f}"] for key, r in results.get(name, {}).items()]
        parts.append(_table([title, "images/s"], rows))
    rows = [
        [f"{r['dtype']}, batch {r['batch']}", str(r["steps"]), f"{r['images_per_second']:.2f}"]
        for name, r in results.items() if name.startswith("sampling-")
    ]  # fmt: skip
    parts.append(_table(["SiT-XL", "steps", "images/s"], rows))
    return "\n\n".join(part for part in parts if part)


def _checks(results: Results) -> str:
    rows = []
    for name, outcome in results.get("summary", {}).items():
        found = results.get(name, {})
        what = found.get("left_out", "") if isinstance(found, dict) else ""
        if "cases" in found:
            right, cases = found["right"], len(found["cases"])
            what = f"{right} of {cases} cases right, `{found['implementation']}`"
        if outcome["status"] != runner.DONE:
            what = "; ".join(filter(None, (what, outcome["reason"].replace("|", "/"))))
        rows.append([name, outcome["status"], f"{outcome['seconds']:.0f} s", what])
    return _table(["stage", "", "took", ""], rows)
