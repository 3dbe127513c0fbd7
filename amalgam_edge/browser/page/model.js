// A web worker that runs a model: tokenizer, ONNX Runtime in WebAssembly, softmax or sigmoid of each head.
import { headsOf } from "./answers.js";
import * as ort from "./libraries/ort.wasm.min.mjs";
import { Tokenizer } from "./libraries/tokenizers.min.mjs";

const BATCH_SIZE = 16;
const RUNTIME_BYTES = 14.3e6; // approximate size of ONNX Runtime's WebAssembly, for the progress bar only

ort.env.wasm.wasmPaths = new URL("./libraries/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

const loadedModels = new Map(); // name@version → {session, tokenizer}

// Downloads a file; ``onBytes`` is called with the number of bytes in each chunk as it arrives.
async function download(url, headers, onBytes) {
  const response = await fetch(url, { headers });
  if (!response.ok) throw new Error(`${url}: ${response.status === 401 ? "an API key is needed" : response.statusText || response.status}`);
  const chunks = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    onBytes(value.length);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

async function load(model, headers) {
  const key = `${model.name}@${model.version}`;
  if (loadedModels.has(key)) return loadedModels.get(key);
  const total = model.bytes + RUNTIME_BYTES;
  let received = 0;
  const onBytes = (n) => {
    received += n;
    postMessage({ progress: { text: `Loading the model: ${(received / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(0)} MB`, share: Math.min(0.99, received / total) } });
  };
  const urlOf = (file) => `bundles/${encodeURIComponent(model.name)}/${file}?v=${model.version}`;
  onBytes(0);
  const [weights, tokenizer, settings] = await Promise.all([
    download(urlOf("model.onnx"), headers, onBytes),
    download(urlOf("tokenizer.json"), headers, onBytes),
    download(urlOf("tokenizer_config.json"), headers, onBytes).catch(() => new TextEncoder().encode("{}")),
  ]);
  const parseJson = (content) => JSON.parse(new TextDecoder().decode(content));
  const tokenizerJson = { ...parseJson(tokenizer), truncation: null, padding: null };
  const session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
  const loaded = { session, tokenizer: new Tokenizer(tokenizerJson, parseJson(settings)) };
  loadedModels.set(key, loaded);
  postMessage({ progress: { text: "", share: 1 } });
  return loaded;
}

// Token ids, cut to the model's longest input, and whether they were; the special tokens at the end are kept.
function encode(tokenizer, text, { max_length, n_last_tokens }) {
  const { ids } = tokenizer.encode(text);
  if (ids.length <= max_length) return { ids, truncated: false };
  return { ids: [...ids.slice(0, max_length - n_last_tokens), ...ids.slice(ids.length - n_last_tokens)], truncated: true };
}

function softmax(logits) {
  const max = Math.max(...logits);
  const exponentials = logits.map((value) => Math.exp(value - max));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
}

function sigmoid(logits) {
  return logits.map((value) => 1 / (1 + Math.exp(-value)));
}

// The labels of a head with their scores, the likeliest first.
function rank({ labels, activation }, logits) {
  const scores = activation === "softmax" ? softmax(logits) : sigmoid(logits);
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  return order.map((y) => ({ label: labels[y], score: scores[y] }));
}

// The labels of each head, from the logits of all.
function rankHeads(heads, logits) {
  let first = 0;
  return heads.map((head) => rank(head, logits.slice(first, (first += head.labels.length))));
}

// Of each text whether it was cut, and the labels of each head. Texts of similar length run together.
async function classify(model, texts, headers) {
  const { session, tokenizer } = await load(model, headers);
  const encoded = texts.map((text) => encode(tokenizer, text, model));
  const order = encoded.map((_, k) => k).sort((a, b) => encoded[b].ids.length - encoded[a].ids.length);
  const heads = headsOf(model);
  const results = new Array(texts.length);
  for (let first = 0; first < order.length; first += BATCH_SIZE) {
    const rows = order.slice(first, first + BATCH_SIZE);
    const width = encoded[rows[0]].ids.length;
    const ids = new BigInt64Array(rows.length * width).fill(BigInt(model.pad_token_id));
    const mask = new BigInt64Array(rows.length * width);
    rows.forEach((row, k) => {
      encoded[row].ids.forEach((id, position) => {
        ids[k * width + position] = BigInt(id);
        mask[k * width + position] = 1n;
      });
    });
    const shape = [rows.length, width];
    const { logits } = await session.run({
      input_ids: new ort.Tensor("int64", ids, shape),
      attention_mask: new ort.Tensor("int64", mask, shape),
    });
    const nLabels = model.labels.length;
    rows.forEach((row, k) => {
      const ofText = [...logits.data.slice(k * nLabels, (k + 1) * nLabels)];
      results[row] = { truncated: encoded[row].truncated, heads: rankHeads(heads, ofText) };
    });
    if (order.length > BATCH_SIZE) {
      const done = Math.min(order.length, first + BATCH_SIZE);
      postMessage({ progress: { text: `${done} of ${order.length} texts`, share: done / order.length } });
    }
  }
  return results;
}

onmessage = async ({ data: { model, texts, headers } }) => {
  try {
    postMessage({ results: await classify(model, texts, headers) });
  } catch (error) {
    postMessage({ error: error.message || String(error) });
  }
};
