// report.mjs - what was measured as lines, as a table in markdown, as a plot.

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  if (!sorted.length) return NaN;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const number = (x, digits = 1) => (Number.isFinite(x) ? x.toFixed(digits) : "-");
const percent = (x) => (Number.isFinite(x) ? `${Math.round(100 * x)} %` : "-");

const done = (r) => (Number.isFinite(r.rate) ? `${number(r.rate)} ${r.unit}` : "-");
const partOf = ({ part, fraction }) => (part ? `; ${part.of} ${percent(fraction * part.share)}` : "");
const share = (r) => (Number.isFinite(r.fraction) ? `${percent(r.fraction)} of ${number(r.peak)} ${r.of}${partOf(r)}` : "-");

// What a token costs, and what the machine has of it in a second.
function cost(plan, what, machine) {
  if (what === "generation")
    return { unit: "GB/s", each: plan.tokenBytes / 1e9, peak: machine.own_gbs, of: `reads of ${machine.own_mb} MB`,
             part: { of: "weights alone", share: plan.tokenWeightBytes / plan.tokenBytes } };
  const [peak, of] = { fma: [machine.fma_gflops, "fma"], wide: [machine.wide_gops, "int8 in 32"], int8: [machine.int8_gops, "int8"] }[plan.peak];
  return { unit: "GOP/s", each: plan.promptTokenOps / 1e9, peak, of };
}

export function rowsOf(model, run) {
  return ["prompt", "generation"].map((what) => {
    const a = run.micc.map((r) => r[what]), b = run.llama.map((r) => r[what]);
    const c = model.plan ? cost(model.plan, what, run.machine) : { each: NaN, peak: NaN, unit: "", of: "" };
    const beside = Object.fromEntries(["fat", "llama2c"].map((k) => [k, (run[k] ?? []).map((r) => r[what]).filter(Boolean)]));
    return { model: model.model, threads: run.threads, what, micc: a, llama: b, ...beside, fatLevel: model.fatLevel, ratio: median(a) / median(b),
             best: a.length && b.length ? Math.max(...a) / Math.max(...b) : NaN, rate: median(a) * c.each, unit: c.unit, peak: c.peak, of: c.of, part: c.part,
             fraction: median(a) * c.each / c.peak, limit: c.peak / c.each };
  });
}

// ---- lines

const spread = (rates) => (rates.length ? `${number(median(rates)).padStart(9)} (${number(Math.min(...rates))}-${number(Math.max(...rates))})` : "-");

// Other work on the machine changes ratios by any factor, since threads that wait for each other may spin: never unsaid.
export function noise(report) {
  const apart = report.models.flatMap((m) => m.runs.flatMap(({ probes: [a, b] }) =>
    ["read_gbs", "own_gbs", "fma_gflops", "wide_gops", "int8_gops"].map((k) => Math.abs(a[k] - b[k]) / Math.max(a[k], b[k]))));
  const said = [];
  if (report.others > 0.1) said.push(`others kept ${number(report.others, 2)} processors busy`);
  if (Math.max(0, ...apart) > 0.1) said.push(`probes before and after differ by up to ${percent(Math.max(...apart))}`);
  return said.length ? `NOT a quiet machine, so no claim about speed: ${said.join("; ")}.` : "";
}

const restriction = ({ restricted, llama }) =>
  `Restricted to ${restricted}: this machine has more than either side may use here${llama ? `; llama.cpp has loaded its variant ${llama.level}` : ""}.`;

const work = (report) => `prompt of ${report.prompt} tokens (${report.promptOf}), ${report.generated} generated` +
  (report.depth ? ` at a context of ${report.depth} and more` : "");

export function heading(report) {
  const { cpu, llama } = report;
  const lines = [`processor: ${cpu.name}, ${cpu.logical} logical processors; ${cpu.flags.join(" ")}`];
  if (report.micc) lines.push(`micc: ${report.micc}, ${report.flags.join(" ")}`);
  if (llama) lines.push(`llama.cpp: ${llama.from}, ${llama.release}, compiled for ${llama.level}`);
  if (report.restricted) lines.push(restriction(report));
  lines.push(`${work(report)}; tokens/s: median (lowest-highest) of ${report.runs}\n`);
  return lines.concat(["model".padEnd(32), "threads", "what".padEnd(10), "micc".padStart(26), "llama.cpp".padStart(26), "  ratio", "of best",
                       "micc does".padStart(14), "of the machine's".padStart(47)].join("  ")).join("\n");
}

export function row(r) {
  return [r.model.padEnd(32), String(r.threads).padStart(7), r.what.padEnd(10), spread(r.micc).padStart(26), spread(r.llama).padStart(26),
          number(r.ratio, 2).padStart(7), number(r.best, 2).padStart(7), done(r).padStart(14), share(r).padStart(47)].join("  ");
}

// What else ran in turn with both sides.
export function besideLines(r) {
  const lines = [];
  if (r.fat.length) lines.push(`  the default program (takes ${r.fatLevel}): ${spread(r.fat).trim()}, ${number(median(r.fat) / median(r.micc), 3)} of the program above`);
  if (r.llama2c.length) lines.push(`  llama2.c: ${spread(r.llama2c).trim()}; micc / llama2.c ${number(median(r.micc) / median(r.llama2c), 2)}`);
  return lines;
}

const megabytes = (m, field) => (m ? number(m[field] / 1e6, 0) : "-");

export function startLine(s) {
  const times = (t) => number(median(t ?? []), 0);
  return [`  start to first token of 32, ${s.threads} threads: micc ${times(s.micc)} ms, llama.cpp ${times(s.llama)} ms`,
          `  a full context of 2048: resident micc ${megabytes(s.miccMemory, "resident")} MB, llama.cpp ${megabytes(s.llamaMemory, "resident")} MB; ` +
          `beyond mapped files micc ${megabytes(s.miccMemory, "anonymous")} MB (states ${megabytes(s.miccMemory, "stated")}), ` +
          `llama.cpp ${megabytes(s.llamaMemory, "anonymous")} MB`].join("\n");
}

// ---- markdown

const line = (cells) => `| ${cells.join(" | ")} |`;
const rule = (n, text) => `|${Array.from({ length: n }, (_, i) => (i < text ? "---" : "---:")).join("|")}|`;

function probesText(report) {
  const seen = new Map();
  for (const m of report.models)
    for (const { threads, machine } of m.runs) {
      const best = seen.get(threads) ?? machine;
      seen.set(threads, Object.fromEntries(Object.keys(best).map((k) => [k, typeof best[k] === "number" ? Math.max(best[k], machine[k]) : best[k]])));
    }
  return [...seen].map(([n, p]) => `${n} thread${n > 1 ? "s" : ""}: ${number(p.read_gbs)} GB/s read, ${number(p.fma_gflops, 0)} GFLOP/s, ` +
                                   `${number(p.int8_gops, 0)} GOP/s in 8 bits (${p.int8}), ${number(p.wide_gops, 0)} with 32-bit sums`).join("; ");
}

function startTable(report) {
  const models = report.models.filter((m) => m.start);
  if (!models.length) return [];
  const head = ["model", "threads", "micc, ms", "llama.cpp, ms", "ratio", "resident, MB: micc", "llama.cpp", "beyond files, MB: micc", "stated", "llama.cpp"];
  return ["", "Start to the first token of a 32-token prompt; memory with a full context of 2,048:", "", line(head), rule(head.length, 1),
          ...models.map(({ model, start: s }) => line([model, s.threads, number(median(s.micc ?? []), 0), number(median(s.llama ?? []), 0),
            number(median(s.micc ?? []) / median(s.llama ?? []), 2), megabytes(s.miccMemory, "resident"), megabytes(s.llamaMemory, "resident"),
            megabytes(s.miccMemory, "anonymous"), megabytes(s.miccMemory, "stated"), megabytes(s.llamaMemory, "anonymous")]))];
}

const range = (rates) => (rates.length > 1 ? `${number(median(rates))} (${number(Math.min(...rates))}-${number(Math.max(...rates))})` : number(median(rates)));

function besideTable(report, key, title, columns, cells) {
  const rows = report.models.flatMap((m) => m.runs.flatMap((run) => rowsOf(m, run))).filter((r) => r[key].length);
  if (!rows.length) return [];
  const head = ["model", "threads", "what", ...columns];
  return ["", title, "", line(head), rule(head.length, 1), ...rows.map((r) => line([r.model, r.threads, r.what, ...cells(r)]))];
}

const fatTable = (report) => besideTable(report, "fat", "The default program (three levels) beside the program for one level:",
  ["one level", "default", "default / one", "takes"], (r) => [range(r.micc), range(r.fat), number(median(r.fat) / median(r.micc), 3), r.fatLevel]);

const llama2cTable = (report) => besideTable(report, "llama2c", "Beside llama2.c's `run`:",
  ["micc", "llama2.c", "ratio"], (r) => [range(r.micc), range(r.llama2c), number(median(r.micc) / median(r.llama2c), 2)]);

export function markdown(report) {
  const { cpu, llama } = report;
  const head = ["model", "threads", "what", "micc", "llama.cpp", "ratio", "micc does", "of the limit"];
  return [`### ${report.date.slice(0, 10)}: ${cpu.name}, ${cpu.logical} logical processors`, "",
          `${report.micc ?? "no micc"} for ${report.level ?? "-"} (\`${report.flags.join(" ")}\`); ` +
          `llama.cpp ${llama ? `${llama.release} (${llama.from}), compiled for ${llama.level}` : "-"}; ` +
          `processor has ${cpu.flags.join(", ")}. Median (lowest-highest) of ${report.runs}, tokens/s; ${work(report)}.`,
          ...(report.restricted ? [restriction(report)] : []),
          `The machine: ${probesText(report)}.`, ...(noise(report) ? ["", `**${noise(report)}**`] : []), "", line(head), rule(head.length, 1),
          ...report.models.flatMap((m) => m.runs.flatMap((run) => rowsOf(m, run))).map((r) => line([r.model, r.threads, r.what, range(r.micc),
            range(r.llama), number(r.ratio, 2), done(r), share(r)])),
          ...fatTable(report), ...llama2cTable(report), ...startTable(report), ""].join("\n");
}

// ---- plot: bars as fractions of the limit, the limit a line. Told apart by filling and by their labels.

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const LEFT = 330, WIDE = 560, BAR = 15, GROUP = 46, TOP = 112, FULL = 1.1; // what is beyond 110 % is cut, and marked

function text(x, y, words, extra = "") {
  return `<text x="${x}" y="${y}" ${extra}>${escape(words)}</text>`;
}

function bar(y, rates, r, style, who) {
  const rate = median(rates), fraction = rate / r.limit, cut = Math.min(fraction, FULL);
  if (!rates.length) return text(LEFT + 6, y + 12, `${who} -`);
  const wide = Math.max(1, cut / FULL * WIDE).toFixed(1), marker = fraction > FULL ? " >>" : "";
  return `<rect x="${LEFT}" y="${y}" width="${wide}" height="${BAR}" ${style}/>` +
         text(LEFT + 6 + Number(wide), y + 12, `${marker} ${who} ${number(rate)} tok/s (${percent(fraction)})`);
}

function group(r, y) {
  return [text(LEFT - 10, y + 14, `${r.what}: limit ${number(r.limit, 0)} tok/s`, 'text-anchor="end"'),
          text(LEFT - 10, y + 29, `${number(r.peak, 0)} ${r.unit} ${r.of}`, 'text-anchor="end" class="small"'),
          bar(y, r.micc, r, 'class="ours"', "micc"), bar(y + BAR + 2, r.llama, r, 'class="theirs" fill="url(#stripes)"', "llama.cpp")].join("\n");
}

function axis(bottom) {
  return [0, 0.25, 0.5, 0.75, 1].map((f) => {
    const x = (LEFT + f / FULL * WIDE).toFixed(1);
    return `<line x1="${x}" y1="${TOP - 8}" x2="${x}" y2="${bottom}" class="${f === 1 ? "limit" : "grid"}"/>` +
           text(x, TOP - 14, f === 1 ? "limit" : percent(f), 'text-anchor="middle"');
  }).join("\n");
}

export function svg(report) {
  const models = report.models.filter((m) => m.plan && m.runs.length), parts = [];
  let y = TOP;
  for (const m of models) {
    const run = m.runs.reduce((a, b) => (b.threads > a.threads ? b : a));
    parts.push(text(12, y + 14, `${m.model}, ${run.threads} threads`, 'font-weight="bold"'));
    y += 22;
    for (const r of rowsOf(m, run)) {
      parts.push(group(r, y));
      y += GROUP;
    }
    y += 8;
  }
  const width = LEFT + WIDE + 250;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y + 16}" width="${width}" height="${y + 16}" role="img" font-family="sans-serif" font-size="13">
<title>Speed of micc and llama.cpp as fractions of what the machine can do</title>
<style>text{fill:#111;stroke:#fff;stroke-width:3px;paint-order:stroke}.small{font-size:11px;fill:#444}.ours{fill:#1f4e79;stroke:#111}.theirs{stroke:#111}.grid{stroke:#bbb}.limit{stroke:#b00020;stroke-width:2.5;stroke-dasharray:7 3}</style>
<defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><rect width="2.5" height="6" fill="#555"/></pattern></defs>
<rect width="100%" height="100%" fill="#fff"/>
${text(12, 24, "Tokens per second, as fractions of the limit that the machine sets", 'font-size="17" font-weight="bold"')}
${text(12, 44, `${report.date.slice(0, 10)}, ${report.cpu.name}; prompt of ${report.prompt} tokens (${report.promptOf}): limit by arithmetic; ${report.generated} generated: limit by reads of memory${report.restricted ? `; restricted to ${report.restricted}` : ""}`)}
${text(12, 62, "filled: micc; striped: llama.cpp; dashed line: the limit, from probes in the same run and the bytes and operations of micc's plan", 'class="small"')}
${text(12, 76, noise(report), 'class="small" font-weight="bold"')}
${axis(y)}
${parts.join("\n")}
</svg>
`;
}
