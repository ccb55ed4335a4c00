// llama2c.mjs - llama2.c's `run` on a GGUF of the architecture llama in F32: the file is rewritten as that program wants it.
// Sources: the GGUF specification of ggml; memory_map_weights() and build_tokenizer() of llama2.c's run.c.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

// ---- GGUF, as far as it is needed

const scalars = { 0: [1, "readUInt8"], 1: [1, "readInt8"], 2: [2, "readUInt16LE"], 3: [2, "readInt16LE"], 4: [4, "readUInt32LE"], 5: [4, "readInt32LE"],
                  6: [4, "readFloatLE"], 7: [1, "readUInt8"], 10: [8, "readBigUInt64LE"], 11: [8, "readBigInt64LE"], 12: [8, "readDoubleLE"] };
const STRING = 8, ARRAY = 9, F32 = 0;

function readGguf(file) {
  const data = readFileSync(file), meta = {}, tensors = {};
  let at = 8;
  const scalar = (type) => {
    const [size, read] = scalars[type], value = data[read](at);
    at += size;
    return Number(value);
  };
  const text = () => {
    const n = scalar(10);
    return data.subarray(at, (at += n)); // bytes: a token need not be a whole character
  };
  const value = (type) => {
    if (type === STRING) return text();
    if (type !== ARRAY) return scalar(type);
    const item = scalar(4), n = scalar(10);
    return Array.from({ length: n }, () => value(item));
  };
  const nTensors = scalar(10), nMeta = scalar(10);
  for (let i = 0; i < nMeta; i++) meta[text()] = value(scalar(4));
  for (let i = 0; i < nTensors; i++) {
    const name = String(text()), dims = Array.from({ length: scalar(4) }, () => scalar(10)), type = scalar(4);
    tensors[name] = { type, bytes: 4 * dims.reduce((a, b) => a * b, 1), offset: scalar(10) };
  }
  const alignment = meta["general.alignment"] ?? 32, begin = Math.ceil(at / alignment) * alignment;
  const tensor = (name) => {
    const t = tensors[name];
    if (t?.type !== F32) throw new Error(`llama2.c: ${name} is missing or not in F32`);
    return data.subarray(begin + t.offset, begin + t.offset + t.bytes);
  };
  return { meta, tensor, has: (name) => name in tensors };
}

// ---- llama2.c's two files

function writeModel({ meta, tensor, has }, file) {
  const hyper = (key) => meta[`llama.${key}`], layers = hyper("block_count"), heads = hyper("attention.head_count");
  const dim = hyper("embedding_length"), context = hyper("context_length"), vocabulary = meta["tokenizer.ggml.tokens"].length;
  const own = has("output.weight"); // a negative vocabulary says so
  const header = Int32Array.of(dim, hyper("feed_forward_length"), layers, heads, hyper("attention.head_count_kv"), own ? -vocabulary : vocabulary, context);
  const each = (name) => Array.from({ length: layers }, (_, i) => tensor(`blk.${i}.${name}.weight`));
  writeFileSync(file, Buffer.concat([
    Buffer.from(header.buffer), tensor("token_embd.weight"),
    ...["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up"].flatMap(each),
    tensor("output_norm.weight"), Buffer.alloc(context * dim / heads * 4), // a table of angles that is no longer used
    ...(own ? [tensor("output.weight")] : []),
  ]));
}

function writeTokenizer({ meta }, file) {
  const tokens = meta["tokenizer.ggml.tokens"], scores = meta["tokenizer.ggml.scores"] ?? [];
  const number = (write, n) => {
    const b = Buffer.alloc(4);
    b[write](n);
    return b;
  };
  writeFileSync(file, Buffer.concat([number("writeInt32LE", Math.max(...tokens.map((t) => t.length))),
    ...tokens.flatMap((t, i) => [number("writeFloatLE", scores[i] ?? 0), number("writeInt32LE", t.length), t])]));
}

// Greedy, from its own beginning, one thread; it may end before `count` tokens. Its rate leaves out the first token.
export class Llama2c {
  constructor(run, model, folder) {
    const file = join(folder, basename(model, ".gguf")), gguf = readGguf(model);
    if (String(gguf.meta["general.architecture"]) !== "llama") throw new Error("llama2.c: it runs the architecture llama alone");
    this.command = [run, `${file}.llama2c.bin`, "-z", `${file}.llama2c.tokens`, "-t", "0", "-n"];
    writeModel(gguf, this.command[1]);
    writeTokenizer(gguf, this.command[3]);
  }

  run(count) {
    const [file, ...args] = this.command;
    const run = spawnSync(file, [...args, String(count)], { encoding: "utf8", env: { ...process.env, OMP_NUM_THREADS: "1" } });
    const rate = /achieved tok\/s: ([\d.]+)/.exec(run.stderr ?? "");
    if (!rate) throw new Error(`llama2.c: ${run.error?.message ?? run.signal ?? (run.stderr.trim() || "it tells no tok/s")}`);
    return { generation: Number(rate[1]) };
  }
}
