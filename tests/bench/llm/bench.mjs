// bench.mjs - the speed of a program that micc compiled beside llama.cpp and beside what the machine can do. See README.md.
import { spawnSync } from "node:child_process";
import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import { basename, delimiter, dirname, join } from "node:path";
import { loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { Bench, Library } from "./llama.mjs";
import * as ours from "./ours.mjs";
import { heading, markdown, row, rowsOf, startLine, svg } from "./report.mjs";

const PROMPT = 512, GENERATED = 128, CONTEXT = 1024;
const START_PROMPT = 32, START_CONTEXT = 2048, FILL = 1920; // of the context, then GENERATED less one
const TEXT = 3000; // characters: more than PROMPT tokens, less than any context
const folder = dirname(fileURLToPath(import.meta.url));
const usage = "run.sh [--runs N] [--threads 1,2] [--only micc|llama.cpp] [--flags \"FLAGS OF MICC\"] [--floor RATIO] [--start] " +
              "[--text FILE] [--json FILE] [--svg FILE] [--table FILE] [--llama-bench FILE|no] MODEL.gguf...";

function stop(message) {
  console.error(`bench: ${message}`);
  process.exit(1);
}

function onPath(name) {
  return (process.env.PATH ?? "").split(delimiter).map((d) => join(d, name)).find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function readOptions(args) {
  const options = { runs: 5, threads: [1, 2], only: "", flags: [], floor: 0, start: false, llamaBench: onPath("llama-bench"), models: [] };
  const values = {
    "--runs": (v) => (options.runs = Number(v)),
    "--threads": (v) => (options.threads = v.split(",").map(Number)),
    "--only": (v) => (options.only = v),
    "--flags": (v) => (options.flags = v.split(" ").filter(Boolean)),
    "--floor": (v) => (options.floor = Number(v)),
    "--text": (v) => (options.text = readFileSync(v, "utf8").slice(0, TEXT)),
    "--json": (v) => (options.json = v),
    "--svg": (v) => (options.svg = v),
    "--table": (v) => (options.table = v),
    "--llama-bench": (v) => (options.llamaBench = v === "no" ? "" : v),
  };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--start") options.start = true;
    else if (!args[i].startsWith("--")) options.models.push(args[i]);
    else if (values[args[i]] && i + 1 < args.length) values[args[i]](args[++i]);
    else stop(`unknown option, or no value: ${args[i]}\n${usage}`);
  }
  if ([options.runs, ...options.threads].some((n) => !Number.isInteger(n) || n < 1)) stop("--runs and --threads take positive numbers");
  if (!["", "micc", "llama.cpp"].includes(options.only)) stop("--only takes micc or llama.cpp");
  if (!options.models.length) stop(`no model: ${usage}`);
  return options;
}

// The same ids for both: of a text, repeated as needed, or random ones. Small ids exist in every vocabulary.
function someTokens(count, ids) {
  if (ids?.length) return Array.from({ length: count }, (_, i) => ids[i % ids.length]);
  let state = 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % 480);
  });
}

// ---- the machine

function describeProcessor() {
  const info = readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set(/^flags\s*: (.*)$/m.exec(info)[1].split(" "));
  const known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"];
  return { name: /^model name\s*: (.*)$/m.exec(info)[1], logical: info.match(/^processor/gm).length, flags: known.filter((f) => flags.has(f)) };
}

function probe(threads) {
  const run = spawnSync(join(folder, "probe"), [String(threads)], { encoding: "utf8" });
  if (run.error || run.status !== 0) stop(`the probe fails: ${run.error?.message ?? run.stderr}`);
  return JSON.parse(run.stdout);
}

const larger = (a, b) => Object.fromEntries(Object.keys(a).map((k) => [k, typeof a[k] === "number" ? Math.max(a[k], b[k]) : a[k]]));

// ---- one model

// What one side cannot do is said, and its column stays empty.
async function attempt(work) {
  try {
    return await work();
  } catch (e) {
    console.log(`  ${e.message}`);
    return null;
  }
}

async function measure(options, threads, program, theirs, ids) {
  const tokens = someTokens(PROMPT, ids), results = { micc: [], llama: [] };
  const sides = [];
  if (program) sides.push(["micc", () => ours.run(program, tokens, GENERATED, threads)]);
  if (theirs && await attempt(async () => (await theirs.open({ ...theirs.best, threads, context: CONTEXT, batch: PROMPT }), true)))
    sides.push(["llama", () => theirs.run(tokens, GENERATED)]);
  const before = probe(threads), failed = new Set();
  for (let i = -1; i < options.runs; i++) // the first is not counted: files come into memory
    for (const [name, once] of sides) {
      const rates = failed.has(name) ? null : await attempt(once);
      if (!rates) failed.add(name);
      else if (i >= 0) results[name].push(rates);
    }
  const after = probe(threads);
  return { ...results, machine: larger(before, after), probes: [before, after] };
}

const openLibrary = (options, bench) => (options.only === "micc" ? null : bench ? new Bench(options.llamaBench) : new Library());

// Its best settings: keys and values as ours, flash attention where it is faster (better of two each).
async function tune(theirs, threads, kv) {
  const tokens = someTokens(PROMPT), ms = { true: Infinity, false: Infinity };
  for (const flash of [true, false, true, false]) {
    await theirs.open({ threads, context: CONTEXT, batch: PROMPT, flash, kv });
    const rates = await theirs.run(tokens, GENERATED);
    ms[flash] = Math.min(ms[flash], PROMPT / rates.prompt + GENERATED / rates.generation);
  }
  theirs.best = { flash: ms.true <= ms.false, kv };
}

async function openModel(options, path, kv) {
  const theirs = openLibrary(options, options.llamaBench), threads = Math.max(...options.threads);
  if (theirs && await attempt(async () => (await theirs.load(path), await tune(theirs, threads, kv), true))) return theirs;
  await theirs?.close();
  return null;
}

// Start to first token and memory. Each run of llama.cpp is a new process.
async function llamaStart(path, settings, tokens) {
  const theirs = new Library();
  try {
    await theirs.info(); // the library is loaded
    const begin = performance.now();
    await theirs.load(path);
    await theirs.open(settings);
    await theirs.firstToken(tokens);
    return performance.now() - begin;
  } finally {
    await theirs.close();
  }
}

async function llamaMemory(path, settings, tokens) {
  const theirs = new Library();
  try {
    await theirs.load(path);
    await theirs.open(settings);
    await theirs.run(tokens, GENERATED - 1);
    return await theirs.memory();
  } finally {
    await theirs.close();
  }
}

async function measureStart(options, path, compiled, best, ids) {
  const tokens = someTokens(START_PROMPT, ids), fill = someTokens(FILL, ids), threads = Math.max(...options.threads);
  const settings = best && { ...best, threads, context: START_CONTEXT, batch: PROMPT };
  const program = compiled &&
    await attempt(() => ours.compile(path, folder, "-2048", [...options.flags, "-c", String(START_CONTEXT)], PROMPT));
  const result = { threads, micc: [], llama: [] };
  const once = {
    micc: () => program && ours.firstToken(program, tokens, threads),
    llama: () => settings && llamaStart(path, settings, tokens),
  };
  for (let i = -1; i < options.runs; i++)
    for (const name of ["micc", "llama"]) {
      const ms = result[name] && await attempt(once[name]);
      if (!ms) result[name] = null;
      else if (i >= 0) result[name].push(ms);
    }
  result.miccMemory = program && await attempt(() => ours.memory(program, fill, GENERATED - 1, threads));
  result.llamaMemory = result.llama && await attempt(() => llamaMemory(path, settings, fill));
  return result;
}

async function benchModel(options, path) {
  const name = basename(path, ".gguf");
  const program = options.only === "llama.cpp" ? null : await attempt(() => ours.compile(path, folder, "", options.flags, PROMPT));
  const theirs = await openModel(options, path, program?.kv ?? "f16");
  const ids = program && options.text ? await attempt(() => ours.tokenize(program, options.text)) : null;
  const result = { model: name, prompt: ids ? "text" : "random ids", plan: program?.plan ?? null, level: program?.about.cpu, llamaSettings: theirs?.best, runs: [] };
  for (const threads of options.threads) {
    const run = { threads, ...await measure(options, threads, program, theirs, ids) };
    result.runs.push(run);
    for (const r of rowsOf(result, run)) console.log(row(r));
  }
  await theirs?.close();
  if (options.start && (program || theirs)) {
    result.start = await measureStart(options, path, program, theirs?.best, ids);
    console.log(startLine(result.start));
  }
  return result;
}

async function describeLlama(options) {
  const it = openLibrary(options, options.llamaBench);
  const info = it && await attempt(() => it.info());
  await it?.close();
  return info && { from: it.constructor.name, ...info };
}

const options = readOptions(process.argv.slice(2));
const report = { date: new Date().toISOString(), load: loadavg()[0], cpu: describeProcessor(), micc: options.only === "llama.cpp" ? null : ours.version(),
                 flags: ["--cpu=native", ...options.flags], llama: await describeLlama(options), runs: options.runs,
                 prompt: PROMPT, generated: GENERATED, promptOf: options.text ? "a text" : "random ids", models: [] };
console.log(heading(report));
for (const path of options.models) report.models.push(await benchModel(options, path));
report.level = report.models.find((m) => m.level)?.level;
if (report.level) console.log(`\nmicc compiles for ${report.level}`);

if (options.json) writeFileSync(options.json, JSON.stringify(report, null, 1) + "\n");
if (options.table) writeFileSync(options.table, markdown(report));
if (options.svg) writeFileSync(options.svg, svg(report));
const ratios = report.models.flatMap((m) => m.runs.flatMap((r) => rowsOf(m, r))).map((r) => r.ratio);
if (options.floor && ratios.some((r) => !(r >= options.floor))) stop(`a ratio lies below ${options.floor}, or is missing`);
