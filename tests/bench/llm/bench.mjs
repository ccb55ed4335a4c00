// bench.mjs - tokens per second of a program that micc compiled, beside llama.cpp. See README.md.
import { spawnSync } from "node:child_process";
import { readFileSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const PROMPT = 512, GENERATED = 128, CONTEXT = 1024;
const here = dirname(fileURLToPath(import.meta.url));

function stop(message) {
  console.error(`bench: ${message}`);
  process.exit(1);
}

function readOptions(args) {
  const options = { runs: 5, threads: [1, 2], only: "", floor: 0, models: [] };
  const values = {
    "--runs": (v) => (options.runs = Number(v)),
    "--threads": (v) => (options.threads = v.split(",").map(Number)),
    "--only": (v) => (options.only = v),
    "--floor": (v) => (options.floor = Number(v)),
  };
  for (let i = 0; i < args.length; i++) {
    if (!args[i].startsWith("--")) options.models.push(args[i]);
    else if (values[args[i]] && i + 1 < args.length) values[args[i]](args[++i]);
    else stop(`unknown option, or no value: ${args[i]}`);
  }
  const counts = [options.runs, ...options.threads];
  if (counts.some((n) => !Number.isInteger(n) || n < 1)) stop("--runs and --threads take positive numbers");
  if (!["", "micc", "llama.cpp"].includes(options.only)) stop("--only takes micc or llama.cpp");
  if (!options.models.length) stop("no model: run.sh [--runs N] [--threads 1,2] MODEL.gguf...");
  return options;
}

// The same ids for both. Which ids does not matter for speed; small ones exist in every vocabulary.
function promptTokens() {
  let state = 1;
  return Array.from({ length: PROMPT }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % 480);
  });
}

// ---- ours

function compile(model) {
  const program = join(here, basename(model, ".gguf"));
  const micc = spawnSync(process.env.MICC, [model, "--cpu=native", "-o", program], { encoding: "utf8" });
  if (micc.error || micc.status !== 0) stop(`micc ${model}: ${micc.error?.message ?? micc.stderr}`);
  return program;
}

function runOurs(program, tokens, threads) {
  const args = ["--token-ids", tokens.join(","), "-n", String(GENERATED), "--ignore-eos", "--temp", "0",
                "-t", String(threads), "--json"];
  const run = spawnSync(program, args, { encoding: "utf8", maxBuffer: 1 << 26 });
  if (run.error || run.status !== 0) stop(`${program}: ${run.error?.message ?? run.stderr}`);
  const { timings } = JSON.parse(run.stdout);
  if (timings.prompt_n !== PROMPT) stop(`${program} processed ${timings.prompt_n} tokens, not ${PROMPT}`);
  return { prompt: timings.prompt_per_second, generation: timings.predicted_per_second };
}

// ---- llama.cpp

// What llama.cpp counts itself: evaluation alone, without sampling and JavaScript.
const counters = { lines: [] };

async function loadLlama() {
  process.env.NODE_LLAMA_CPP_SKIP_DOWNLOAD = "true";
  const { getLlama } = await import("node-llama-cpp");
  return getLlama({ gpu: false, build: "never", usePrebuiltBinaries: true, progressLogs: false, maxThreads: 0,
                    logLevel: "info", logger: (level, line) => counters.lines.push(line) });
}

async function openLlama(model, threads) {
  return model.createContext({ contextSize: CONTEXT, batchSize: PROMPT, threads: { ideal: threads, min: threads },
                               flashAttention: true, performanceTracking: true });
}

// "prompt eval time = 743.87 ms / 512 tokens", "eval time = 3566.79 ms / 128 runs"
async function readCounters(context) {
  counters.lines = [];
  await context.printTimings(); // and begins anew
  const text = counters.lines.join("\n");
  const read = (pattern) => pattern.exec(text)?.slice(1).map(Number) ?? [NaN, 0];
  return { prompt: read(/prompt eval time =\s*([\d.]+) ms \/\s*(\d+) tokens/),
           generation: read(/ eval time =\s*([\d.]+) ms \/\s*(\d+) runs/) };
}

async function runLlama(context, sequence, tokens) {
  await sequence.clearHistory();
  await readCounters(context);
  let made = 0; // the first token comes from the prompt's evaluation
  for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true }))
    if (made++ === GENERATED) break;
  const { prompt, generation } = await readCounters(context);
  if (prompt[1] !== PROMPT || generation[1] !== GENERATED)
    stop(`llama.cpp counts ${prompt[1]} + ${generation[1]} tokens, not ${PROMPT} + ${GENERATED}`);
  return { prompt: PROMPT / prompt[0] * 1e3, generation: GENERATED / generation[0] * 1e3 };
}

// ---- both

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function cell(rates) {
  if (!rates.length) return "-".padStart(26);
  const [low, high] = [Math.min(...rates), Math.max(...rates)];
  return `${median(rates).toFixed(1).padStart(9)} (${low.toFixed(1)}-${high.toFixed(1)})`.padStart(26);
}

function report(name, threads, ours, theirs, floor) {
  let below = false;
  for (const what of ["prompt", "generation"]) {
    const a = ours.map((r) => r[what]), b = theirs.map((r) => r[what]);
    const ratio = (pick) => (a.length && b.length ? pick(a) / pick(b) : NaN);
    const text = (x) => (Number.isNaN(x) ? "-" : x.toFixed(2)).padStart(7);
    below ||= ratio(median) < floor;
    console.log([name.padEnd(32), String(threads).padStart(7), what.padEnd(10), cell(a), cell(b),
                 text(ratio(median)), text(ratio((rates) => Math.max(...rates)))].join("  "));
  }
  return below;
}

async function measure(options, path, threads, program, model) {
  const tokens = promptTokens(), ours = [], theirs = [];
  const context = model && await openLlama(model, threads);
  const sequence = context?.getSequence();
  if (program) runOurs(program, tokens, threads); // not counted: files come into memory
  if (sequence) await runLlama(context, sequence, tokens);
  for (let i = 0; i < options.runs; i++) {
    if (program) ours.push(runOurs(program, tokens, threads));
    if (sequence) theirs.push(await runLlama(context, sequence, tokens));
  }
  await context?.dispose();
  return report(basename(path), threads, ours, theirs, options.floor);
}

function describeProcessor() {
  const info = readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set(/^flags\s*: (.*)$/m.exec(info)[1].split(" "));
  const known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"];
  return `${/^model name\s*: (.*)$/m.exec(info)[1]}, ${info.match(/^processor/gm).length} logical processors; ` +
         known.filter((f) => flags.has(f)).join(" ");
}

const options = readOptions(process.argv.slice(2));
mkdirSync(here, { recursive: true });
const llama = options.only === "micc" ? null : await loadLlama();

console.log(`processor: ${describeProcessor()}`);
if (llama) console.log(`llama.cpp: ${llama.llamaCppRelease.release}, ${llama.systemInfo.trim()}`);
console.log(`prompt of ${PROMPT} tokens, ${GENERATED} generated; tokens/s: median (lowest-highest) of ${options.runs}\n`);
console.log(["model".padEnd(32), "threads", "what".padEnd(10), "micc".padStart(26), "llama.cpp".padStart(26), "  ratio", "of best"].join("  "));

let below = false;
for (const path of options.models) {
  const program = options.only === "llama.cpp" ? null : compile(path);
  const model = await llama?.loadModel({ modelPath: path, gpuLayers: 0 });
  for (const threads of options.threads)
    below = await measure(options, path, threads, program, model) || below;
  await model?.dispose();
}
if (below) stop(`a ratio lies below ${options.floor}`);
