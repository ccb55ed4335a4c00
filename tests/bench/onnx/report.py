"""What was measured as lines, as tables in markdown, as a plot."""

import html
import math

PEERS = ["onnxruntime", "openvino"]
SIDES = ["micc", *PEERS]
TITLES = {"micc": "micc", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
GOAL = 1.2


def median(values):
    s, n = sorted(values), len(values)
    return None if not n else s[n // 2] if n % 2 else (s[n // 2 - 1] + s[n // 2]) / 2


def time_of(entry, side):
    return median(entry["ms"].get(side, []))


def faster_peer(entry):
    found = [t for t in (time_of(entry, p) for p in PEERS) if t is not None]
    return min(found) if found else None


def ratio(entry):
    """How many times faster than the faster of the two."""
    ours, theirs = time_of(entry, "micc"), faster_peer(entry)
    return theirs / ours if ours and theirs else None


def geometric_mean(ratios):
    known = [r for r in ratios if r]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def number(x, digits=3):
    """So many digits that count, without an exponent."""
    if x is None:
        return "-"
    return f"{x:.{max(0, digits - 1 - math.floor(math.log10(x)))}f}" if x > 0 else "0"


def fixed(x, digits=2):
    return "-" if x is None else f"{x:.{digits}f}"


def spread(entry, side):
    times = entry["ms"].get(side, [])
    return f"{number(median(times))} ({number(min(times))}-{number(max(times))})" if times else "-"


def brief(why, most=220):
    return why if len(why) <= most else why[:most] + " ..."


def mb(x, digits=1):
    return "-" if x is None else f"{x / 1e6:.{digits}f}"


def noise(said):
    if said.get("others", 0) > 0.1:
        return f"NOT a quiet machine, so no claim about speed: others kept {said['others']:.2f} processors busy."
    return ""


def threads_of(said):
    return sorted({e["threads"] for e in said["entries"]})


# ---- lines


def versions(said):
    return "; ".join(v or f"{TITLES[name]}: -" for name, v in said["sides"].items())


def idle_text(said):
    known = [f"{TITLES[name]} {ms * 1e3:.1f}" for name, ms in said["idle_call_ms"].items() if ms is not None]
    return f"A call that computes nothing takes, in us: {', '.join(known)}; it is not taken off." if known else ""


def heading(said):
    cpu = said["cpu"]
    return "\n".join([
        f"processor: {cpu['name']}, {cpu['logical']} logical processors; {' '.join(cpu['flags'])}",
        f"{versions(said)}; micc with {' '.join(said['flags'])}", idle_text(said),
        f"ms: median (lowest-highest) of {said['runs']} slices, each the median of its runs", "",
        "  ".join(["case".ljust(28), "threads", *[TITLES[s].rjust(24) for s in SIDES], "ratio".rjust(6), "largest error".rjust(14)])])


def row(entry):
    return "  ".join([entry["case"].ljust(28), str(entry["threads"]).rjust(7), *[spread(entry, s).rjust(24) for s in SIDES],
                      fixed(ratio(entry)).rjust(6), number(entry["error"].get("micc"), 2).rjust(14)])


def summary(said):
    lines = []
    for t in threads_of(said):
        ratios = [ratio(e) for e in said["entries"] if e["threads"] == t]
        known = [r for r in ratios if r]
        lines.append(f"{t} thread{'s' if t > 1 else ''}: {len(known)} of {len(ratios)} compared, geometric mean {fixed(geometric_mean(known))}, "
                     f"lowest {fixed(min(known, default=None))}, at least {GOAL}: {sum(r >= GOAL for r in known)}")
    return lines


def ending(said):
    return "\n".join(["", *summary(said), noise(said)])


# ---- markdown


def line(cells):
    return f"| {' | '.join(str(c) for c in cells)} |"


def table(head, texts, rows):
    return [line(head), f"|{'|'.join('---' if i < texts else '---:' for i in range(len(head)))}|", *map(line, rows)]


def start_cells(entry, key, show):
    return [show(entry["start"].get(s, {}).get(key)) for s in SIDES]


def start_table(said):
    most = max(threads_of(said), default=0)
    entries = [e for e in said["entries"] if e["threads"] == most and (e["start"] or e.get("size"))]
    if not entries:
        return []
    head = ["case", *[f"first result, ms: {TITLES[s]}" if s == "micc" else TITLES[s] for s in SIDES],
            *[f"peak memory, MB: {TITLES[s]}" if s == "micc" else TITLES[s] for s in SIDES], "program, KB", "weights, KB", "rest, KB", "arena, KB"]

    def kb(e, key):
        return f"{e['size'][key] / 1e3:.0f}" if e.get("size") else "-"

    rows = [[e["case"], *start_cells(e, "ms", number), *start_cells(e, "peak", mb), *[kb(e, k) for k in ("file", "weights", "rest", "arena")]] for e in entries]
    return ["", f"Start to first result, peak memory and size ({most} thread{'s' if most > 1 else ''}):", "", *table(head, 1, rows)]


def reasons(said):
    seen = {}
    for e in said["entries"]:
        for side, why in e["why"].items():
            seen.setdefault((e["case"], side), why)
    return ["", "Not measured:", "", *[f"- {case}, {TITLES[side]}: {brief(why)}" for (case, side), why in seen.items()]] if seen else []


def markdown(said):
    cpu = said["cpu"]
    rows = [[e["case"], e["threads"], *[spread(e, s) for s in SIDES], fixed(ratio(e)), number(e["error"].get("micc"), 2)] for e in said["entries"]]
    head = ["case", "threads", *[TITLES[s] for s in SIDES], "ratio to the faster", "largest error"]
    quiet = noise(said)
    return "\n".join([
        f"### {said['date']}: {cpu['name']}, {cpu['logical']} logical processors", "",
        f"{versions(said)}; micc with `{' '.join(said['flags'])}`; processor has {', '.join(cpu['flags'])}. "
        f"Milliseconds: median (lowest-highest) of {said['runs']} slices. {idle_text(said)}",
        *(["", f"**{quiet}**"] if quiet else []), "", *[f"- {text}" for text in summary(said)], "",
        *table(head, 1, rows), *start_table(said), *reasons(said), ""])


# ---- plot: speed as a multiple of the faster peer's. Told apart by filling and by their labels.

LEFT, WIDE, BAR, TOP, FULL = 250, 560, 11, 104, 4.0
STYLE = {"micc": 'class="ours"', "onnxruntime": 'class="theirs" fill="url(#stripes)"', "openvino": 'class="theirs" fill="#fff"'}


def text(x, y, words, extra=""):
    return f'<text x="{x:g}" y="{y:g}" {extra}>{html.escape(str(words))}</text>'


def bar(y, entry, side):
    ms, fastest = time_of(entry, side), faster_peer(entry)
    if ms is None:
        return text(LEFT + 6, y + 9, f"{TITLES[side]} -", 'class="small"')
    speed = fastest / ms if fastest else 1
    wide = max(1, min(speed, FULL) / FULL * WIDE)
    return (f'<rect x="{LEFT}" y="{y:g}" width="{wide:.1f}" height="{BAR}" {STYLE[side]}/>'
            + text(LEFT + 6 + wide, y + 9, f"{'>> ' if speed > FULL else ''}{TITLES[side]} {number(ms)} ms ({speed:.2f})", 'class="small"'))


def axis(bottom):
    marks = []
    for at in (0, 1, GOAL, 2, 3, 4):
        x, kind = LEFT + at / FULL * WIDE, "limit" if at == 1 else "goal" if at == GOAL else "grid"
        marks.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" class="{kind}"/>')
        if at != GOAL:
            marks.append(text(x, TOP - 14, f"{at}", 'text-anchor="middle"'))
    return "\n".join(marks)


def svg(said):
    threads, parts, y = min(threads_of(said), default=0), [], TOP
    for e in (e for e in said["entries"] if e["threads"] == threads):
        parts.append(text(LEFT - 10, y + 20, e["case"], 'text-anchor="end"'))
        parts += [bar(y + i * (BAR + 1), e, s) for i, s in enumerate(SIDES)]
        y += 3 * (BAR + 1) + 10
    cpu, width = said["cpu"], LEFT + WIDE + 230
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8}" width="{width}" height="{y + 8}" role="img" font-family="sans-serif" font-size="13">
<title>Speed of micc on ONNX models beside ONNX Runtime and OpenVINO</title>
<style>text{{fill:#111;stroke:#fff;stroke-width:3px;paint-order:stroke}}.small{{font-size:11px;fill:#444}}.ours{{fill:#1f4e79;stroke:#111}}.theirs{{stroke:#111}}.grid{{stroke:#bbb}}.limit{{stroke:#b00020;stroke-width:2;stroke-dasharray:7 3}}.goal{{stroke:#1f4e79;stroke-dasharray:2 3}}</style>
<defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><rect width="2.5" height="6" fill="#555"/></pattern></defs>
<rect width="100%" height="100%" fill="#fff"/>
{text(12, 24, "Runs per second, as a multiple of the faster of ONNX Runtime and OpenVINO", 'font-size="17" font-weight="bold"')}
{text(12, 44, f"{said['date']}, {cpu['name']}, {threads} thread{'s' if threads > 1 else ''}; {versions(said)}")}
{text(12, 62, f"filled: micc; striped: ONNX Runtime; empty: OpenVINO; dashed: the faster of the two, dotted: {GOAL} times that", 'class="small"')}
{text(12, 76, noise(said), 'class="small" font-weight="bold"')}
{axis(y)}
{chr(10).join(parts)}
</svg>
"""
