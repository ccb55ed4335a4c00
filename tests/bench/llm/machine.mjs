// machine.mjs - the processor: what it is, what a level leaves of it, what probes reach on it, and who else uses it.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));

// Both sides see the same features: `cpu` is micc's level, `march` the probe's, `variant` llama.cpp's library.
export const levels = {
  native: { cpu: "native", march: "native" },
  vnni: { cpu: "x86-64-v4+vnni", march: "cascadelake", variant: "cascadelake" },
  avx2: { cpu: "x86-64-v3", march: "x86-64-v3", variant: "haswell" },
};

export function describeProcessor() {
  const info = readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set(/^flags\s*: (.*)$/m.exec(info)[1].split(" "));
  const known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"];
  return { name: /^model name\s*: (.*)$/m.exec(info)[1], logical: info.match(/^processor/gm).length, flags: known.filter((f) => flags.has(f)) };
}

// ---- llama.cpp takes the best of the variants that lie in its folder: a copy of the packages with one of them

const variantName = /^libggml-cpu-(\w+)\.so$/;

// Files are linked, not copied, and the copy appears whole or not at all. Returns the folder that holds llama.mjs.
export function llamaFolder({ variant }) {
  if (!variant || !existsSync(join(folder, "node_modules"))) return folder;
  const place = join(folder, `only-${variant}`), part = `${place}.part`;
  const stamp = (at) => existsSync(join(at, "package.json")) && readFileSync(join(at, "package.json"), "utf8");
  if (stamp(place) !== stamp(folder)) {
    for (const old of [place, part]) rmSync(old, { recursive: true, force: true });
    const copy = spawnSync("sh", ["-c", 'mkdir "$1" && cp -al node_modules "$1/" && cp package.json "$1/"', "sh", part], { cwd: folder, encoding: "utf8" });
    if (copy.status !== 0) throw new Error(`the packages of llama.cpp cannot be copied: ${copy.stderr.trim()}`);
    const libraries = join(part, "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64");
    for (const name of readdirSync(libraries))
      if (variantName.test(name) && variantName.exec(name)[1] !== variant) rmSync(join(libraries, name));
    renameSync(part, place);
  }
  cpSync(join(folder, "llama.mjs"), join(place, "llama.mjs"));
  return place;
}

// ---- probes

export function buildProbe(name) {
  const file = join(folder, `probe-${name}`);
  const run = spawnSync("cc", ["-O3", `-march=${levels[name].march}`, "-pthread", join(folder, "probe.c"), "-o", file], { encoding: "utf8" });
  if (run.error || run.status !== 0) throw new Error(`the probe cannot be built: ${run.error?.message ?? run.stderr}`);
  return (threads, bytes) => {
    const args = [threads, ...(bytes ? [Math.max(1, Math.round(bytes / 2 ** 20))] : [])];
    const run = spawnSync(file, args.map(String), { encoding: "utf8" });
    if (run.error || run.status !== 0) throw new Error(`the probe fails: ${run.error?.message ?? run.signal ?? run.stderr}`);
    return JSON.parse(run.stdout);
  };
}

export const larger = (a, b) => Object.fromEntries(Object.keys(a).map((k) => [k, typeof a[k] === "number" ? Math.max(a[k], b[k]) : a[k]]));

// ---- the others: processor time that went to no process of this benchmark, and what a hypervisor took

const TICKS = 100; // USER_HZ, of all Linux

function busyTicks() {
  const [user, nice, system, , , irq, softirq, steal] = /^cpu +(.*)$/m.exec(readFileSync("/proc/stat", "utf8"))[1].split(" ").map(Number);
  return user + nice + system + irq + softirq + steal;
}

function ownTicks() { // this process, and children that have ended
  const fields = readFileSync("/proc/self/stat", "utf8").replace(/^.*\) /, "").split(" ").map(Number);
  return fields.slice(11, 15).reduce((a, b) => a + b, 0);
}

// How many processors others kept busy since it was called, on average. Right only while no child of ours runs.
export function watchOthers() {
  const begin = performance.now(), busy = busyTicks(), own = ownTicks();
  return () => Math.max(0, (busyTicks() - busy - (ownTicks() - own)) / TICKS / ((performance.now() - begin) / 1e3));
}
