/**
 * Recurrent and convolutional networks in few bits: bytes of the file and of its weights in several formats, rounded to nearest, and
 * of the LSTM that writes Shakespeare the bits that a character of unseen text costs. After a build, where ../shared/data is:
 * node bench/few-bits.mjs. Writes bench/runs/few-bits.json.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openSession, quantizeWeights, sizeOf } from "../dist/index.js";
import { loadFile } from "../dist/ir/load.node.js";
import { runSteps } from "../dist/techniques/pipeline.node.js";
import { SHARED, needsData, writeRun } from "./support.mjs";

needsData();
const WRITER = "charrnn-lstm-shakespeare";
const OTHERS = ["dtln-1", "gtcrn", "silero-vad", "seq2seq-lstm", "resnet20-cifar10", "mcunet-imagenet"];
const BITS = ["int8", "int6", "int4", "int3", "int2"];
/** Formats and methods of the network whose accuracy is known; the others are only rounded, and counted. */
const WRITER_CELLS = [...["rtn", "mse"].flatMap((method) => BITS.map((to) => [to, method])), ["nf4", "mse"], ["codebook16", "mse"], ["ternary", "mse"]];
const OTHER_CELLS = BITS.map((to) => [to, "rtn"]);
/** The text that the network has not seen is read as so many streams side by side, state carried from window to window. */
const STREAMS = 32;
const WINDOW = 128;
const UNITS = 128;

/** Tokens of the last tenth of the text: (streams, characters). */
function unseen() {
  const vocabulary = JSON.parse(readFileSync(join(SHARED, "models", `${WRITER}.vocab.json`), "utf8"));
  const text = readFileSync(join(SHARED, "text", "tinyshakespeare.txt"), "utf8");
  // The file lists two letters under other names, by their frequency: "  " is u, "" is U
  const letters = { ...vocabulary, u: vocabulary["  "], U: vocabulary[""] };
  const tail = Array.from(text.slice(Math.floor(0.9 * text.length)), (character) => letters[character]);
  const length = Math.floor(tail.length / STREAMS);
  return Array.from({ length: STREAMS }, (_, i) => tail.slice(i * length, (i + 1) * length));
}

/** Mean −log₂ p(next character). */
async function bitsPerCharacter(model, streams) {
  const session = await openSession(model, { threads: 1 });
  const zeros = () => ({ dtype: "float32", shape: [1, STREAMS, UNITS], data: new Float32Array(STREAMS * UNITS) });
  let state = { h0_in: zeros(), c0_in: zeros(), h1_in: zeros(), c1_in: zeros() };
  let [nats, count] = [0, 0];
  for (let from = 0; from + 1 < streams[0].length; from += WINDOW) {
    const steps = Math.min(WINDOW, streams[0].length - 1 - from);
    const ids = BigInt64Array.from(streams.flatMap((stream) => stream.slice(from, from + steps)), BigInt);
    const outputs = await session.run({ input_ids: { dtype: "int64", shape: [STREAMS, steps], data: ids }, ...state });
    const { data, shape } = outputs.logits;
    const classes = shape[2];
    for (const [row, stream] of streams.entries())
      for (let t = 0; t < steps; t++) {
        const scores = data.subarray((row * steps + t) * classes, (row * steps + t + 1) * classes);
        const peak = scores.reduce((a, b) => Math.max(a, b));
        nats += peak + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - peak), 0)) - scores[stream[from + t + 1]];
        count++;
      }
    state = Object.fromEntries(["h0", "c0", "h1", "c1"].map((name) => [`${name}_in`, outputs[`${name}_out`]]));
  }
  await session.close();
  return nats / count / Math.LN2;
}

const streams = unseen();
const rows = [];
for (const name of [WRITER, ...OTHERS]) {
  const model = await loadFile(join(SHARED, "models", `${name}.onnx`));
  const judged = async (subject) => {
    const { bytes, brotliBytes } = await sizeOf(subject);
    return { bytes, brotliBytes, ...(name === WRITER && { bitsPerCharacter: await bitsPerCharacter(subject, streams) }) };
  };
  rows.push({ model: name, format: "fp32", ...(await judged(model)) });
  for (const [to, method] of name === WRITER ? WRITER_CELLS : OTHER_CELLS) {
    const { model: quantized, steps } = await runSteps(model, [quantizeWeights({ to, method, compute: "fp32" })], { threads: 1 });
    const { changed } = steps[0];
    const elements = changed.reduce((sum, { bytesBefore }) => sum + bytesBefore / 4, 0);
    const bits = (8 * changed.reduce((sum, { bytesAfter }) => sum + bytesAfter, 0)) / elements;
    rows.push({ model: name, format: to, method, weights: changed.length, elements, bits, ...(await judged(quantized)) });
    console.error(name, to, method, bits.toFixed(2), rows.at(-1).bytes, rows.at(-1).bitsPerCharacter?.toFixed(4) ?? "");
  }
}
writeRun("few-bits", rows);
