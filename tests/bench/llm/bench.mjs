// bench.mjs - the speed of a program that micc compiled beside llama.cpp and beside what the machine can do. See README.md.
import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import { basename, delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Bench, Library } from "./llama.mjs";
import { Llama2c } from "./llama2c.mjs";
import { buildProbe, describeProcessor, larger, levels, llamaFolder, watchOthers } from "./machine.mjs";
import * as ours from "./ours.mjs";
import { besideLines, heading, markdown, noise, row, rowsOf, startLine, svg } from "./report.mjs";

const PROMPT = 512, GENERATED = 128, CONTEXT = 1024, BATCH = 512;
const TUNING = 32; // tokens generated to choose llama.cpp's settings
const CAPACITY = 4096; // micc's own choice, where the model allows it
const START_PROMPT = 32, START_CONTEXT = 2048, FILL = 1920; // of the context, then GENERATED less one
const TEXT = 3000; // characters: more than PROMPT tokens, less than any context
const folder = dirname(fileURLToPath(import.meta.url));
const usage = `run.sh [--level native|vnni|avx2] [--runs N] [--threads 1,2] [--depth N] [--generate N] [--only micc|llama.cpp] [--flags "FLAGS OF MICC"]
       [--fat] [--start] [--floor RATIO] [--text FILE] [--json FILE] [--svg FILE] [--table FILE] [--llama-bench FILE|no] [--llama2c FILE] MODEL.gguf...
run.sh --from JSON,JSON... [--json FILE] [--svg FILE] [--table FILE]`;

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
  const options = { level: "native", runs: 5, threads: [1, 2], prompt: PROMPT, generate: GENERATED, only: "", flags: [], floor: 0, models: [], from: [] };
  const values = {
    "--level": (v) => (options.level = v),
    "--runs": (v) => (options.runs = Number(v)),
    "--depth": (v) => (options.depth = options.prompt = Number(v)),
    "--generate": (v) => (options.generate = Number(v)),
    "--threads": (v) => (options.threads = v.split(",").map(Number)),
    "--only": (v) => (options.only = v),
    "--flags": (v) => (options.flags = v.split(" ").filter(Boolean)),
    "--floor": (v) => (options.floor = Number(v)),
    "--text": (v) => (options.text = readFileSync(v, "utf8").slice(0, TEXT)),
    "--json": (v) => (options.json = v),
    "--svg": (v) => (options.svg = v),
    "--table": (v) => (options.table = v),
    "--llama-bench": (v) => (options.llamaBench = v === "no" ? "" : v),
    "--llama2c": (v) => (options.llama2c = v),
    "--from": (v) => (options.from = v.split(",")),
  };
  for (let i = 0; i < args.length; i++) {
    if (["--start", "--fat"].includes(args[i])) options[args[i].slice(2)] = true;
    else if (!args[i].startsWith("--")) options.models.push(args[i]);
    else if (values[args[i]] && i + 1 < args.length) values[args[i]](args[++i]);
    else stop(`unknown option, or no value: ${args[i]}\n${usage}`);
  }
  const counts = [options.runs, options.prompt, options.generate, ...options.threads];
  if (counts.some((n) => !Number.isInteger(n) || n < 1)) stop("--runs, --threads, --depth and --generate take positive numbers");
  if (!levels[options.level]) stop(`--level takes ${Object.keys(levels).join(", ")}`);
  if (!["", "micc", "llama.cpp"].includes(options.only)) stop("--only takes micc or llama.cpp");
  if (!options.models.length === !options.from.length) stop(`models, or --from: ${usage}`);
  // What a llama-bench was compiled for cannot be restricted.
  options.llamaBench ??= options.level === "native" ? onPath("llama-bench") : "";
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

// Each side's runs, in turn: ours, theirs, what else there is.
async function measure(options, threads, { program, plan, theirs, beside, ids }) {
  const tokens = someTokens(options.prompt, ids), sides = {}, results = { micc: [], llama: [] };
  if (program) sides.micc = () => ours.run(program, tokens, options.generate, threads);
  if (beside.fat) sides.fat = () => ours.run(beside.fat, tokens, options.generate, threads);
  if (theirs && await attempt(async () => (await tune(options, theirs, threads, tokens), true)))
    sides.llama = () => atBest(options, theirs, threads, tokens);
  if (beside.llama2c && threads === 1) sides.llama2c = () => beside.llama2c.run(options.prompt + options.generate);
  const before = options.probe(threads, plan?.tokenBytes);
  for (let i = -1; i < options.runs; i++) // the first is not counted: files come into memory
    for (const [name, once] of Object.entries(sides)) {
      const rates = await attempt(once);
      if (!rates) delete sides[name];
      else if (i >= 0) (results[name] ??= []).push(rates);
    }
  const after = options.probe(threads, plan?.tokenBytes);
  const llamaSettings = sides.llama && { kv: theirs.kv, flash: theirs.flash };
  return { ...results, llamaSettings, machine: larger(before, after), probes: [before, after] };
}

const room = ({ prompt, generate }) => ({ context: Math.max(CONTEXT, Math.ceil((prompt + generate) / 256) * 256), batch: Math.min(prompt, BATCH) });

const library = (options) => new Library(llamaFolder(levels[options.level]));
const openLibrary = (options) => (options.only === "micc" ? null : options.llamaBench ? new Bench(options.llamaBench) : library(options));

// Its best settings: keys and values as ours; flash attention where it is faster (the better of two runs each), which for
// prompts and generation may differ.
async function tune(options, theirs, threads, tokens) {
  const rate = { prompt: {}, generation: {} };
  for (const flash of [true, false, true, false]) {
    await theirs.open({ threads, ...room(options), flash, kv: theirs.kv });
    const rates = await theirs.run(tokens, Math.min(TUNING, options.generate));
    for (const what of Object.keys(rate)) rate[what][flash] = Math.max(rate[what][flash] ?? 0, rates[what]);
  }
  theirs.flash = Object.fromEntries(Object.entries(rate).map(([what, r]) => [what, r.true >= r.false]));
  await theirs.open({ threads, ...room(options), flash: theirs.flash.prompt, kv: theirs.kv });
}

async function atBest(options, theirs, threads, tokens) {
  const { prompt, generation } = theirs.flash, settings = { threads, ...room(options), kv: theirs.kv };
  if (prompt === generation) return theirs.run(tokens, options.generate); // opened by tune()
  await theirs.open({ ...settings, flash: prompt });
  const first = await theirs.run(tokens, 1);
  await theirs.open({ ...settings, flash: generation });
  return { ...(await theirs.run(tokens, options.generate)), prompt: first.prompt };
}

async function openModel(options, path, kv) {
  const theirs = openLibrary(options);
  if (theirs && await attempt(async () => (await theirs.load(path), true))) return Object.assign(theirs, { kv });
  await theirs?.close();
  return null;
}

// Start to first token and memory. Each run of llama.cpp is a new process.
async function llamaStart(options, path, settings, tokens) {
  const theirs = library(options);
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

async function llamaMemory(options, path, settings, tokens) {
  const theirs = library(options);
  try {
    await theirs.load(path);
    await theirs.open(settings);
    await theirs.run(tokens, GENERATED - 1);
    return await theirs.memory();
  } finally {
    await theirs.close();
  }
}

async function measureStart(options, path, compiled, tuned, ids) {
  const tokens = someTokens(START_PROMPT, ids), fill = someTokens(FILL, ids), threads = Math.max(...options.threads);
  const settings = tuned && { kv: tuned.kv, flash: tuned.flash.prompt, threads, context: START_CONTEXT, batch: BATCH };
  const program = compiled && await attempt(() => ours.compile(path, folder, "-2048", [...ownFlags(options), "-c", String(START_CONTEXT)]));
  const result = { threads, micc: [], llama: [] };
  const once = {
    micc: () => program && ours.firstToken(program, tokens, threads),
    llama: () => settings && llamaStart(options, path, settings, tokens),
  };
  for (let i = -1; i < options.runs; i++)
    for (const name of ["micc", "llama"]) {
      const ms = result[name] && await attempt(once[name]);
      if (!ms) result[name] = null;
      else if (i >= 0) result[name].push(ms);
    }
  result.miccMemory = program && await attempt(() => ours.memory(program, fill, GENERATED - 1, threads));
  result.llamaMemory = result.llama && await attempt(() => llamaMemory(options, path, settings, fill));
  return result;
}

const ownFlags = ({ level, flags, prompt, generate }) =>
  [`--cpu=${levels[level].cpu}`, ...(prompt + generate > CAPACITY ? ["-c", String(prompt + generate)] : []), ...flags];

// The default program has three levels and takes the best: on a restricted machine it is told which.
function compileFat(options, path) {
  const { cpu } = levels[options.level], [, ...flags] = ownFlags(options);
  return ours.compile(path, folder, "-fat", flags, cpu === "native" ? {} : { MICC_CPU: cpu });
}

async function benchModel(options, path) {
  const name = basename(path, ".gguf"), beside = {};
  const program = options.only === "llama.cpp" ? null : await attempt(() => ours.compile(path, folder, "", ownFlags(options)));
  const plan = program && await attempt(() => ours.readPlan(path, ownFlags(options), options));
  if (options.fat) beside.fat = await attempt(() => compileFat(options, path));
  if (options.llama2c) beside.llama2c = await attempt(() => new Llama2c(options.llama2c, path, folder));
  const theirs = await openModel(options, path, program?.kv ?? "f16");
  const ids = program && options.text ? await attempt(() => ours.tokenize(program, options.text)) : null;
  const result = { model: name, prompt: ids ? "text" : "random ids", plan, level: program?.about.cpu, fatLevel: beside.fat?.about.cpu, runs: [] };
  for (const threads of options.threads) {
    const run = { threads, ...await measure(options, threads, { program, plan, theirs, beside, ids }) };
    result.runs.push(run);
    for (const r of rowsOf(result, run)) console.log([row(r), ...besideLines(r)].join("\n"));
  }
  await theirs?.close();
  if (options.start && (program || theirs)) {
    result.start = await measureStart(options, path, program, result.runs.find((r) => r.threads === Math.max(...options.threads))?.llamaSettings, ids);
    console.log(startLine(result.start));
  }
  return result;
}

async function describeLlama(options) {
  const it = await attempt(() => openLibrary(options));
  const info = it && await attempt(() => it.info());
  await it?.close();
  const { variant } = levels[options.level];
  if (info && variant && !options.llamaBench && info.level !== variant) stop(`llama.cpp took its variant ${info.level}, not ${variant}`);
  return info && { from: it.constructor.name, ...info };
}

async function run(options) {
  const others = watchOthers();
  options.probe = buildProbe(options.level);
  const report = { date: new Date().toISOString(), cpu: describeProcessor(), restricted: options.level === "native" ? null : options.level,
                   micc: options.only === "llama.cpp" ? null : ours.version(), flags: ownFlags(options), llama: await describeLlama(options),
                   runs: options.runs, prompt: options.prompt, depth: options.depth ?? null, generated: options.generate,
                   promptOf: options.text ? "a text" : "random ids", models: [] };
  console.log(heading(report));
  for (const path of options.models) report.models.push(await benchModel(options, path));
  report.others = others();
  report.level = report.models.find((m) => m.level)?.level;
  console.log(["", ...(report.level ? [`micc compiles for ${report.level}`] : []), noise(report)].join("\n"));
  return report;
}

// Reports of runs of equal kind as one: of a model that several hold, each gives its thread counts.
function joined(files) {
  const reports = files.map((f) => JSON.parse(readFileSync(f, "utf8"))), models = new Map();
  const kind = (r) => JSON.stringify([r.cpu, r.restricted, r.micc, r.flags, r.llama, r.runs, r.prompt, r.generated, r.promptOf]);
  if (new Set(reports.map(kind)).size > 1) stop("--from: these reports are of different kinds");
  for (const m of reports.flatMap((r) => r.models)) {
    const first = models.get(m.model);
    if (first) first.runs = [...first.runs, ...m.runs].sort((a, b) => a.threads - b.threads);
    else models.set(m.model, m);
    models.get(m.model).start ??= m.start;
  }
  return { ...reports[0], others: Math.max(...reports.map((r) => r.others)), models: [...models.values()] };
}

const options = readOptions(process.argv.slice(2));
let report;
try {
  report = options.from.length ? joined(options.from) : await run(options);
} catch (e) {
  stop(e.message);
}
if (options.json) writeFileSync(options.json, JSON.stringify(report, null, 1) + "\n");
if (options.table) writeFileSync(options.table, markdown(report));
if (options.svg) writeFileSync(options.svg, svg(report));
const ratios = report.models.flatMap((m) => m.runs.flatMap((r) => rowsOf(m, r))).map((r) => r.ratio);
if (options.floor && ratios.some((r) => !(r >= options.floor))) stop(`a ratio lies below ${options.floor}, or is missing`);
