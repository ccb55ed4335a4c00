// llama.mjs - llama.cpp from npm in a process of its own (a model that it cannot load may end that process), or llama-bench.
import { fork, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const self = fileURLToPath(import.meta.url);

// ---- this side: ask(what, ...) is answered by the process

export class Library {
  static name = "node-llama-cpp";

  // `folder` holds this file, and node_modules from which it takes the library.
  constructor(folder) {
    this.child = fork(join(folder, "llama.mjs"), ["serve"], { execArgv: ["--expose-gc"], stdio: ["ignore", "ignore", "ignore", "ipc"] });
    this.ended = new Promise((resolve) => this.child.on("exit", (code, signal) => resolve({ error: `it ended (${signal ?? code})` })));
  }

  async ask(what, ...args) {
    const answer = new Promise((resolve) => this.child.once("message", resolve));
    if (this.child.connected) this.child.send({ what, args }, () => {});
    const { error, value } = await Promise.race([answer, this.ended]);
    if (error) throw new Error(`llama.cpp: ${error.split("\n")[0]}`);
    return value;
  }

  info() { return this.ask("info"); }
  load(model) { return this.ask("load", model); }
  open(settings) { return this.ask("open", settings); } // threads, context, batch, flash, kv
  run(tokens, count) { return this.ask("run", tokens, count); }
  firstToken(tokens) { return this.ask("firstToken", tokens); }
  memory() { return this.ask("memory"); }

  async close() {
    this.child.kill();
    await this.ended;
  }
}

// The same questions to a llama-bench. A new process for each: its own warm-up comes before what it counts.
export class Bench {
  static name = "llama-bench";

  constructor(file) {
    this.file = file;
  }

  ask(...args) {
    const run = spawnSync(this.file, ["-m", this.model, "-r", "1", "-ngl", "0", "-o", "json", ...this.settings, ...args],
                          { encoding: "utf8", maxBuffer: 1 << 26 });
    if (run.error || run.status !== 0) throw new Error(`llama-bench: ${run.error?.message ?? run.stderr.trim().split("\n").pop()}`);
    const results = JSON.parse(run.stdout);
    this.result = results[results.length - 1];
    return this.result.avg_ts;
  }

  info() { return { release: spawnSync(this.file, ["--version"], { encoding: "utf8" }).stderr?.split("\n")[0] ?? "", level: "(not told)" }; }
  load(model) { this.model = model; }
  open({ threads, batch, flash, kv }) {
    this.settings = ["-t", threads, "-b", batch, "-ub", batch, "-fa", flash ? 1 : 0, "-ctk", kv, "-ctv", kv].map(String);
  }
  run(tokens, count) {
    const prompt = this.ask("-p", String(tokens.length), "-n", "0");
    const generation = this.ask("-p", "0", "-n", String(count), "-d", String(tokens.length));
    return { prompt, generation, build: this.result.build_commit };
  }
  close() {}
}

// ---- the process

const lines = [];
let llama, model, context, sequence, before;

async function start() {
  process.env.NODE_LLAMA_CPP_SKIP_DOWNLOAD = "true";
  const { getLlama } = await import("node-llama-cpp");
  return getLlama({ gpu: false, build: "never", usePrebuiltBinaries: true, progressLogs: false, maxThreads: 0,
                    logLevel: "info", logger: (level, line) => lines.push(line) });
}

// JavaScript's own heap is left out.
const status = () => {
  globalThis.gc();
  const text = readFileSync("/proc/self/status", "utf8"), { heapTotal } = process.memoryUsage();
  return Object.fromEntries([["resident", "VmRSS"], ["anonymous", "RssAnon"]].map(
    ([name, field]) => [name, new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(text)[1] * 1024 - heapTotal]));
};

// "prompt eval time = 743.87 ms / 512 tokens", "eval time = 3566.79 ms / 128 runs": evaluation alone
async function readCounters() {
  lines.length = 0;
  await context.printTimings(); // and begins anew
  const text = lines.join("\n");
  const read = (pattern) => pattern.exec(text)?.slice(1).map(Number) ?? [NaN, 0];
  return { prompt: read(/prompt eval time =\s*([\d.]+) ms \/\s*(\d+) tokens/),
           generation: read(/ eval time =\s*([\d.]+) ms \/\s*(\d+) runs/) };
}

async function evaluate(tokens, count) {
  let made = 0; // the first token comes from the prompt's evaluation
  for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true }))
    if (made++ === count) break;
}

const answers = {
  async info() {
    const level = /libggml-cpu-(\w+)\.so/.exec(readFileSync("/proc/self/maps", "utf8"))?.[1] ?? "?";
    return { release: llama.llamaCppRelease.release, level, system: llama.systemInfo.trim() };
  },
  async load(path) {
    model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
  },
  async open({ threads, context: contextSize, batch: batchSize, flash, kv }) {
    await context?.dispose();
    const type = kv.toUpperCase();
    context = await model.createContext({ contextSize, batchSize, threads: { ideal: threads, min: threads }, flashAttention: flash,
                                          experimentalKvCacheKeyType: type, experimentalKvCacheValueType: type, performanceTracking: true });
    sequence = context.getSequence();
  },
  async run(tokens, count) {
    await sequence.clearHistory();
    await readCounters();
    await evaluate(tokens, count);
    const { prompt, generation } = await readCounters();
    if (prompt[1] !== tokens.length || generation[1] !== count)
      throw new Error(`it counts ${prompt[1]} + ${generation[1]} tokens, not ${tokens.length} + ${count}`);
    return { prompt: tokens.length / prompt[0] * 1e3, generation: count / generation[0] * 1e3 };
  },
  async firstToken(tokens) {
    await evaluate(tokens, 0);
  },
  async memory() { // what came since the library had started
    const now = status();
    return { resident: now.resident - before.resident, anonymous: now.anonymous - before.anonymous };
  },
};

if (process.argv[1] === self && process.argv[2] === "serve") {
  const started = start().then((it) => ((llama = it), (before = status())));
  process.on("message", async ({ what, args }) => {
    try {
      await started;
      process.send({ value: await answers[what](...args) });
    } catch (e) {
      process.send({ error: String(e?.message ?? e) });
    }
  });
  process.on("disconnect", () => process.exit(0));
}
