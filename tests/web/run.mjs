// node run.mjs MODEL FEEDS ANSWERS: answers every feed of a JSON file with onnxruntime-web, in wasm on one thread.
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [model, feeds, answers] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

// Integers of any rank: nested lists, or a number alone.
function tensor(values) {
  const dims = [];
  for (let inner = values; Array.isArray(inner); inner = inner[0]) dims.push(inner.length);
  return new ort.Tensor("int64", BigInt64Array.from([values].flat(Infinity), BigInt), dims);
}

const session = await ort.InferenceSession.create(await readFile(model), { executionProviders: ["wasm"] });
const logits = [];
for (const feed of JSON.parse(await readFile(feeds, "utf-8"))) {
  const inputs = Object.fromEntries(Object.entries(feed).map(([name, values]) => [name, tensor(values)]));
  const { logits: answer } = await session.run(inputs);
  logits.push({ dims: answer.dims, data: Array.from(answer.data) });
}
await writeFile(answers, JSON.stringify(logits));
