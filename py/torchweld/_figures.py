"""A page of figures (Markdown) from the records of bench: tables, bars, geometric means, and where the time goes."""

import collections
import json
import math

BAR = 40  # characters of the longest bar
SLOWEST = 3  # models of which the page says where the time goes
STEPS = 8  # kinds of steps named for each of them
USUAL_LEVEL = 3  # of optimisation, which the page does not mention
FIELDS = {  # of every record that is shown
    "model", "batch", "precision", "device", "torchweld_ms", "torchweld_p99_ms", "peers", "kernels_per_call", "host_us",
    "build_s", "peak_gpu_mb", "error_ratio", "steps",
}  # fmt: skip


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
        for record in _records(path):
            key = record["device"], record["precision"], record["batch"]
            groups.setdefault(key, {})[_label(record)] = record
    parts = [
        "# Figures\n\nWritten by `python -m torchweld figures` from the records beside it; see [README](README.md).\n"
    ]
    for (device, precision, batch), models in sorted(groups.items()):
        parts.append(
            f"\n## {device}, {precision}, batch {batch}\n\n{_table(models.values())}\n{_bars(models.values())}"
        )
        parts.append(_where_time_goes(models.values()))
    return "".join(parts)


def _records(path):
    """The list in a file. Raises ValueError unless it holds records of bench."""
    with open(path) as file:
        try:
            records = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file ({error}); name files that bench wrote with --json") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} holds no list of records; name files that bench wrote with --json")
    for i, record in enumerate(records):
        missing = sorted(FIELDS - set(record)) if isinstance(record, dict) else sorted(FIELDS)
        if missing:
            raise ValueError(
                f"{path}: record {i} is none of bench, it has no {', '.join(missing)}; name files that bench wrote "
                "with --json"
            )
    return records


def _label(record):
    """The model, and how it was compiled where that is not the usual way."""
    level = record.get("optimization_level", USUAL_LEVEL)
    return record["model"] + (f" (level {level})" if level != USUAL_LEVEL else "")


def _best_peer(record):
    """(name, milliseconds); None where no peer was timed."""
    return min(record["peers"].items(), key=lambda item: item[1], default=None)


def _ratio(record):
    """None where no peer was timed."""
    best = _best_peer(record)
    return best and best[1] / record["torchweld_ms"]


def _table(records):
    warm = any(r.get("warm_build_s") for r in records)
    head = ["model", "Torchweld ms", "p99 ms", "best peer ms", "ratio", "launches", "host us", "build s"]
    head += [*(["warm build s"] if warm else []), "peak MiB", "error / allowed"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for r in records:
        peer, ratio = "none", ""
        if r["peers"]:
            name, best = _best_peer(r)
            peer, ratio = f"{best:.3f} ({name})", f"{_ratio(r):.2f}"
        again = f" | {r['warm_build_s']:.1f}" if r.get("warm_build_s") else " | " if warm else ""
        lines.append(
            f"| {_label(r)} | {r['torchweld_ms']:.3f} | {r['torchweld_p99_ms']:.3f} | {peer} "
            f"| {ratio} | {r['kernels_per_call']} | {r['host_us']:.0f} | {r['build_s']:.1f}{again} "
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
        lines.append(_label(r))
        lines += [f"  {name:<12} {'█' * max(1, round(ms / longest * BAR))} {ms:.3f}" for name, ms in times.items()]
    return "\n".join([*lines, "```", ""])


def _where_time_goes(records):
    """Steps of the models that are least ahead, equal ones together. Timed alone: their sum is not the whole time."""
    known = [r for r in records if isinstance(r["steps"], list)]
    worst = sorted(known, key=lambda r: _ratio(r) or math.inf)[:SLOWEST]
    return "".join(_steps(r) for r in worst if any(step[2] for step in r["steps"]))


def _steps(record):
    """The kinds of steps of one model, with their floors where the record has any."""
    kinds = collections.defaultdict(list)
    for op, tactic, *times in record["steps"]:
        kinds[op, tactic].append(times)
    total, floor = _sums(step[2:] for step in record["steps"])
    named = sorted(kinds.items(), key=lambda item: -_sums(item[1])[0])
    rest = [times for _, group in named[STEPS:] for times in group]
    rows = [(f"`{op}`", f"`{tactic}`", times) for (op, tactic), times in named[:STEPS]]
    rows += [(f"{len(named) - STEPS} other kinds", "", rest)] if rest and floor else []
    rows += [("all", "", [times for group in kinds.values() for times in group])] if floor else []
    head = ["us", *(["floor us", "us / floor"] if floor else []), "share", "steps", "each us", "operation", "tactic"]
    text = (
        f"\nWhere the time of {_label(record)} goes: {total:.0f} us in {len(record['steps'])} steps, each timed alone"
        + (f"; a call takes {record['torchweld_ms'] * 1e3:.0f} us, the floor is {floor:.0f}" if floor else "")
        + f".\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}\n"
    )
    for op, tactic, times in rows:
        us, least = _sums(times)
        floors = f" {least:.0f} | {us / least:.1f} |" if floor else ""
        text += f"| {us:.0f} |{floors} {us / total:.0%} | {len(times)} | {us / len(times):.2f} | {op} | {tactic} |\n"
    return text


def _sums(times):
    """Microseconds of steps, and of their floors; these are 0 where one is not known."""
    times = list(times)
    floors = [step[1] if len(step) > 1 else None for step in times]
    return math.fsum(step[0] for step in times), 0 if None in floors else math.fsum(floors)
