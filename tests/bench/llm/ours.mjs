// ours.mjs - the program that micc compiles from a model: what its plan reads and multiplies, and what it does in a run.
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";

const MICC = process.env.MICC ?? "micc";

function capture(command, args, env = {}) {
  const run = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 28, env: { ...process.env, ...env } });
  if (run.error || run.status !== 0)
    throw new Error((run.error?.message ?? run.stderr).trim() || `${basename(command)} ends with status ${run.status}`);
  return run.stdout;
}

export const version = () => capture(MICC, ["--version"]).trim();

// Which of the machine's peaks bounds a prompt: that of the type with the most multiply-adds in `entry`. 8-bit codes leave
// no room for sums in 16 bits.
function peakOf(entry) {
  const work = {};
  for (const [, types, mops] of entry.matchAll(/^ {6}linear\.(\w+)\S*\s.*? ([\d.]+) Mop /gm)) work[types] = (work[types] ?? 0) + Number(mops);
  const [most] = Object.entries(work).sort((a, b) => b[1] - a[1])[0] ?? ["q4_0"];
  return ["f32", "f16", "bf16"].includes(most) ? "fma" : most === "q8_0" ? "wide" : "int8";
}

// Bytes of keys and values that attention reads where `seen` positions stand before, of `all` bytes each: a window reads no
// more than it holds. The lines of kernels, which tell windows, have fewer digits than the total: they give its parts.
function seenBytes(entry, all, seen) {
  let bytes = 0, read = 0;
  for (const [, each, most] of entry.matchAll(/ ([\d.]+) MB +[\d.]+ Mop +x (\d+) positions/g)) {
    bytes += Number(each);
    read += Number(each) * Math.min(seen, Number(most));
  }
  return bytes ? all * read / bytes : 0;
}

// The totals that --emit=plan prints. A generated token reads weights, and keys and values of the positions before it: on the
// average the prompt and half of what is generated.
export function readPlan(model, flags, { prompt, generate }) {
  const text = capture(MICC, [model, ...flags, "--emit=plan"]), totals = {}, bytes = {};
  for (const entry of text.split(/^entry /m).slice(1)) {
    const total = /^ {2}total: ([\d.]+) MB a call, ([\d.]+) Mop a token(?:; a position seen: ([\d.]+) MB)?/m.exec(entry);
    if (total) totals[/^\w+/.exec(entry)[0]] ??= { bytes: total[1] * 1e6, multiplyAdds: total[2] * 1e6,
                                                       seenBytes: seenBytes(entry, (total[3] ?? 0) * 1e6, prompt + generate / 2), peak: peakOf(entry) };
  }
  if (!totals.decode) throw new Error("the plan has no total of the entry decode; is this micc too old?");
  for (const item of text.matchAll(/^ +\d+ +(\d+) +\w+ +(\w+) +\S+$/gm)) bytes[item[2]] = (bytes[item[2]] ?? 0) + Number(item[1]);
  // Tiles do all of a prompt but its last token, which goes through the entry that makes logits.
  const tile = totals.prefill ?? totals.decode, { decode } = totals;
  return {
    tokenBytes: decode.bytes + decode.seenBytes,
    tokenWeightBytes: decode.bytes,
    tokenOps: 2 * decode.multiplyAdds,
    promptTokenOps: 2 * ((prompt - 1) * tile.multiplyAdds + decode.multiplyAdds) / prompt,
    weightBytes: bytes,
    peak: tile.peak,
  };
}

export function compile(model, folder, suffix, flags, env = {}) {
  const file = join(folder, basename(model, ".gguf") + suffix);
  capture(MICC, [model, ...flags, "-o", file]);
  const about = Object.fromEntries([...capture(file, ["--about"], env).matchAll(/^([\w ]+): (.*)$/gm)].map((m) => [m[1], m[2]]));
  const kv = /keys and values in (\w+)/.exec(about.context)?.[1] ?? "f16";
  return { file, env, about, kv };
}

const runArgs = (tokens, count, threads) =>
  ["--token-ids", tokens.join(","), "-n", String(count), "--ignore-eos", "--temp", "0", "-t", String(threads), "--json"];

export function run(program, tokens, count, threads) {
  const { timings } = JSON.parse(capture(program.file, runArgs(tokens, count, threads), program.env));
  if (timings.prompt_n !== tokens.length) throw new Error(`${program.file} read ${timings.prompt_n} tokens, not ${tokens.length}`);
  return { prompt: timings.prompt_per_second, generation: timings.predicted_per_second };
}

export const tokenize = (program, text) =>
  JSON.parse(capture(program.file, ["-p", text, "-n", "1", "--temp", "0", "--json"])).prompt_tokens;

// Wall clock of the whole process, from before its start until it has ended.
export function firstToken(program, tokens, threads) {
  const begin = performance.now();
  capture(program.file, runArgs(tokens, 1, threads));
  return performance.now() - begin;
}

export function statusBytes(pid, field) {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return line ? line[1] * 1024 : 0;
}

// The most that the process was seen to hold, looked at every 2 ms.
export function memory(program, tokens, count, threads) {
  return new Promise((resolve, reject) => {
    const child = spawn(program.file, runArgs(tokens, count, threads), { stdio: "ignore" });
    const most = { resident: 0, anonymous: 0 };
    const timer = setInterval(() => {
      try {
        most.resident = Math.max(most.resident, statusBytes(child.pid, "VmRSS"));
        most.anonymous = Math.max(most.anonymous, statusBytes(child.pid, "RssAnon"));
      } catch {} // it has just ended
    }, 2);
    child.on("error", reject);
    child.on("close", (status) => {
      clearInterval(timer);
      const kept = ["states", "arena", "scratch"].map((k) => parseInt(program.about[`memory_${k}`]) * (k === "scratch" ? threads : 1));
      if (status === 0) resolve({ ...most, stated: kept.reduce((a, b) => a + b, 0) });
      else reject(new Error(`${program.file} ends with status ${status}`));
    });
  });
}
