"""A page of figures (Markdown) from the records of bench: tables, bars, geometric means, and where the time goes."""

import collections
import json
import math

BAR = 40  # characters of the longest bar
SLOWEST = 3  # models of which the page says where the time goes
STEPS = 8  # kinds of steps named for each of them


def add_arguments(parser):
    parser.add_argument("records", nargs="+", help="files that bench wrote with --json")
    parser.add_argument("--page", help="write the page to this file instead of standard output")
    parser.set_defaults(action=run)


def run(args):
    text = page(args.records)
    if args.page:
        with open(args.page, "w") as file:
            file.write(text)
    else:
        print(text, end="")
    return 0


def page(paths):
    """The page as text. A model that is in a group twice is shown as it was measured last."""
    groups = {}
    for path in paths:
        with open(path) as file:
            for record in json.load(file):
                key = record["device"], record["precision"], record["batch"]
                groups.setdefault(key, {})[record["model"]] = record
    parts = [
        "# Figures\n\nWritten by `python -m torchweld figures` from the records beside it; see [README](README.md).\n"
    ]
    for (device, precision, batch), models in sorted(groups.items()):
        parts.append(
            f"\n## {device}, {precision}, batch {batch}\n\n{_table(models.values())}\n{_bars(models.values())}"
        )
        parts.append(_where_time_goes(models.values()))
    return "".join(parts)


def _best_peer(record):
    """(name, milliseconds); None where no peer was timed."""
    return min(record["peers"].items(), key=lambda item: item[1], default=None)


def _ratio(record):
    """None where no peer was timed."""
    best = _best_peer(record)
    return best and best[1] / record["torchweld_ms"]


def _table(records):
    lines = [
        "| model | Torchweld ms | p99 ms | best peer ms | ratio | launches | host us | build s | peak MiB "
        "| error / allowed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        peer, ratio = "none", ""
        if r["peers"]:
            name, best = _best_peer(r)
            peer, ratio = f"{best:.3f} ({name})", f"{_ratio(r):.2f}"
        lines.append(
            f"| {r['model']} | {r['torchweld_ms']:.3f} | {r['torchweld_p99_ms']:.3f} | {peer} "
            f"| {ratio} | {r['kernels_per_call']} | {r['host_us']:.0f} | {r['build_s']:.1f} "
            f"| {r['peak_gpu_mb']:.0f} | {r['error_ratio']:.2f} |"
        )
    logarithms = [math.log(_ratio(r)) for r in records if r["peers"]]
    text = "\n".join(lines) + "\n"
    if not logarithms:
        return text
    return text + f"\nGeometric mean of the ratios: {math.exp(math.fsum(logarithms) / len(logarithms)):.2f}.\n"


def _bars(records):
    lines = ["```text"]
    for r in records:
        times = {"torchweld": r["torchweld_ms"]} | r["peers"]
        longest = max(times.values())
        lines.append(r["model"])
        lines += [f"  {name:<12} {'█' * max(1, round(ms / longest * BAR))} {ms:.3f}" for name, ms in times.items()]
    return "\n".join([*lines, "```", ""])


def _where_time_goes(records):
    """Steps of the models that are least ahead, equal ones together. Timed alone: their sum is not the whole time."""
    known = [r for r in records if isinstance(r["steps"], list)]
    worst = sorted(known, key=lambda r: _ratio(r) or math.inf)[:SLOWEST]
    text = ""
    for r in worst:
        kinds = collections.defaultdict(list)
        for op, tactic, microseconds in r["steps"]:
            kinds[op, tactic].append(microseconds)
        total = math.fsum(us for times in kinds.values() for us in times)
        if not total:
            continue
        text += (
            f"\nWhere the time of {r['model']} goes: {total:.0f} us in {len(r['steps'])} steps, each timed alone.\n\n"
            "| us | share | steps | each us | operation | tactic |\n| --- | --- | --- | --- | --- | --- |\n"
        )
        for (op, tactic), times in sorted(kinds.items(), key=lambda item: -math.fsum(item[1]))[:STEPS]:
            us = math.fsum(times)
            text += f"| {us:.0f} | {us / total:.0%} | {len(times)} | {us / len(times):.2f} | `{op}` | `{tactic}` |\n"
    return text
