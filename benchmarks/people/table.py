"""The results of `builtin_generator` for people: a Markdown table, turns, goals."""

from __future__ import annotations

from typing import Any

SHARES = ("pose", "identity")
METRICS = {
    "pose": "pose %",
    "identity": "identity %",
    "ssim": "SSIM",
    "psnr": "PSNR",
    "ssim_person": "SSIM person",
    "lpips": "LPIPS",
}
NAMES = {"truth": "the truth itself", "VAE": "the truth through the VAE", "copy": "a copy of the source"}


def table(results: dict[str, Any]) -> str:
    """The results for people: a Markdown table, turns, goals."""
    rows = results["rows"]
    metrics = [metric for metric in METRICS if any(metric in row for row in rows.values())]
    known = results["judge_accuracy"]
    lines = [
        f"{results['generator']} ({results['generator_sha256'][:12]}): {results['sampler']} {results['steps']} steps, "
        f"guidance {results['guidance']}; {results['people']} people, {results['pictures']} pictures. Identity: chance "
        f"{results['chance']:.1%}, real pictures never trained on {known['source']:.1%} (sources), "
        f"{known['target']:.1%} (targets).",
        "",
        "| | " + " | ".join(METRICS[metric] for metric in metrics) + " | CPU s a picture |",
        "|---" * (len(metrics) + 2) + "|",
    ]
    for name, row in rows.items():
        cells = [_cell(row.get(metric), metric) for metric in metrics]
        cost = row.get("seconds_per_picture", {}).get("cpu_seconds", "")
        lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + f" | {cost} |")
    lines.append("")
    for mode in results["modes"]:
        gains = ", ".join(f"{METRICS[m]} {_cell(value, m)}" for m, value in rows[mode]["over_copy"].items())
        lines.append(f"{mode} less a copy of the source, pair by pair: {gains}")
        for label, part in rows[mode]["by_turn"].items():
            found = ", ".join(f"{METRICS[m]} {_cell(part[m], m)}" for m in SHARES if m in part)
            lines.append(f"{mode}, {label}: {part['pictures']} pictures, {found}")
    lines += [f"{'yes' if reached else 'NO '} {goal}" for goal, reached in results["goals"].items()]
    return "\n".join([*lines, *([f"Absent: {results['absent']}."] if results["absent"] else [])])


def _cell(value: dict[str, Any] | None, metric: str) -> str:
    if value is None:
        return ""
    factor, digits = (100, 1) if metric in SHARES else (1, 1 if metric == "psnr" else 3)
    numbers = [value["mean"], *(value["interval"] or [])]
    mean, *ends = (f"{factor * number:.{digits}f}" for number in numbers)
    return f"{mean} ({ends[0]} to {ends[1]})" if ends else mean
