// A student in a thread of its own: tokenizer, ONNX Runtime in WebAssembly, scores.
import * as ort from "./libraries/ort.wasm.min.mjs";
import { Tokenizer } from "./libraries/tokenizers.min.mjs";

const BATCH = 16;
const RUNTIME_BYTES = 14.3e6; // of ONNX Runtime's WebAssembly, or so: the progress bar alone reads it

ort.env.wasm.wasmPaths = new URL("./libraries/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

const loaded = new Map(); // name and version → {session, tokenizer}

// A file, told of as it comes; ``count`` gets the bytes that have come since.
async function bytes(url, headers, count) {
  const answer = await fetch(url, { headers });
  if (!answer.ok) throw new Error(`${url}: ${answer.status === 401 ? "an API key is needed" : answer.statusText || answer.status}`);
  const parts = [];
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    count(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function load(model, headers) {
  const key = `${model.name}@${model.version}`;
  if (loaded.has(key)) return loaded.get(key);
  const all = model.bytes + RUNTIME_BYTES;
  let come = 0;
  const count = (n) => {
    come += n;
    postMessage({ progress: { text: `Loading the model: ${(come / 1e6).toFixed(1)} of ${(all / 1e6).toFixed(0)} MB`, share: Math.min(0.99, come / all) } });
  };
  const at = (file) => `bundles/${encodeURIComponent(model.name)}/${file}?v=${model.version}`;
  count(0);
  const [weights, tokenizer, settings] = await Promise.all([
    bytes(at("model.onnx"), headers, count),
    bytes(at("tokenizer.json"), headers, count),
    bytes(at("tokenizer_config.json"), headers, count).catch(() => new TextEncoder().encode("{}")),
  ]);
  const parsed = (content) => JSON.parse(new TextDecoder().decode(content));
  const document = { ...parsed(tokenizer), truncation: null, padding: null };
  const session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
  const made = { session, tokenizer: new Tokenizer(document, parsed(settings)) };
  loaded.set(key, made);
  postMessage({ progress: { text: "", share: 1 } });
  return made;
}

// Token ids, cut to the longest input; what the tokenizer puts at the end stays there.
function encode(tokenizer, text, { max_length, n_last_tokens }) {
  const { ids } = tokenizer.encode(text);
  if (ids.length <= max_length) return ids;
  return [...ids.slice(0, max_length - n_last_tokens), ...ids.slice(ids.length - n_last_tokens)];
}

function softmax(logits) {
  const most = Math.max(...logits);
  const loud = logits.map((value) => Math.exp(value - most));
  const sum = loud.reduce((a, b) => a + b, 0);
  return loud.map((value) => value / sum);
}

async function classify(model, texts, headers) {
  const { session, tokenizer } = await load(model, headers);
  const encoded = texts.map((text) => encode(tokenizer, text, model));
  const order = encoded.map((_, k) => k).sort((a, b) => encoded[b].length - encoded[a].length);
  const scores = new Array(texts.length);
  for (let first = 0; first < order.length; first += BATCH) {
    const rows = order.slice(first, first + BATCH);
    const width = encoded[rows[0]].length;
    const ids = new BigInt64Array(rows.length * width).fill(BigInt(model.pad_token_id));
    const mask = new BigInt64Array(rows.length * width);
    rows.forEach((row, k) => {
      encoded[row].forEach((id, place) => {
        ids[k * width + place] = BigInt(id);
        mask[k * width + place] = 1n;
      });
    });
    const shape = [rows.length, width];
    const { logits } = await session.run({
      input_ids: new ort.Tensor("int64", ids, shape),
      attention_mask: new ort.Tensor("int64", mask, shape),
    });
    const n = model.labels.length;
    rows.forEach((row, k) => {
      const found = softmax([...logits.data.slice(k * n, (k + 1) * n)]);
      scores[row] = found.map((score, y) => ({ label: model.labels[y], score })).sort((a, b) => b.score - a.score);
    });
    if (order.length > BATCH) {
      const done = Math.min(order.length, first + BATCH);
      postMessage({ progress: { text: `${done} of ${order.length} texts`, share: done / order.length } });
    }
  }
  return scores;
}

onmessage = async ({ data: { model, texts, headers } }) => {
  try {
    postMessage({ scores: await classify(model, texts, headers) });
  } catch (error) {
    postMessage({ error: error.message || String(error) });
  }
};
