/**
 * Writes bench/RESULTS.md from the recorded runs in bench/runs/*.json; nothing in it is typed by hand.
 * `node bench/results.mjs` after a benchmark; `--check` only says (exit code 1) when the page is not what the runs give.
 */
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, runs, table } from "./support.mjs";

const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
const milliseconds = (seconds) => (seconds === undefined ? "" : `${(1000 * seconds).toFixed(2)} ms`);
const megabytes = (bytes) => (bytes === undefined ? "" : `${Math.round(bytes / 1e6)} MB`);
const gigabytes = (bytes) => (bytes === undefined ? "" : `${(bytes / 1e9).toFixed(2)} GB/s`);
const interval = ({ value, low, high }, show) => `${show(value)} (${show(low)} to ${show(high)})`;
const faster = (ratio) => interval({ value: 1 / ratio.value, low: 1 / ratio.high, high: 1 / ratio.low }, (x) => `${x.toFixed(2)}×`);

/** Each benchmark's section, in the page's order: title, what was measured, tables, notes. */
const SECTIONS = {
  kernels: ({ rows, megabytes: size }) => [
    "SIMD kernels",
    `Float32 bytes per second of processor time, one thread, ${size} MiB of weights, best of several runs; the plain TypeScript reference is the same arithmetic in ordinary loops, in the same process.`,
    table(
      ["kernel", "SIMD", "plain", "ratio"],
      rows.map((row) => [row.name, gigabytes(row.simdBytesPerSecond), gigabytes(row.plainBytesPerSecond), `${row.ratio.toFixed(1)}×`]),
    ),
  ],
  "weight-formats": ({ rows }) => [
    "Number formats of weights",
    "Time of one run over float32's, in turns, processor time of one thread; formats that are not named here are unpacked at load and run as float32 does. Everything else is in [docs/FORMATS.md](../docs/FORMATS.md).",
    table(
      ["format", "layer", "bits per weight", "run, Node", "run, WebAssembly", "load, Node"],
      rows
        .filter(({ format, layer }) => ["int8", "int4", "int2", "int5", "codebook16"].includes(format) && layer !== "Gather")
        .map((row) => [row.format, row.layer, row.bits.toFixed(2), ...[row.node.run, row.wasm.run, row.node.load].map((x) => `${x.toFixed(2)}×`)]),
    ),
  ],
  "few-bits": ({ rows }) => {
    const writer = rows.filter(({ bitsPerCharacter }) => bitsPerCharacter !== undefined);
    const [float] = writer;
    const others = rows.filter((row) => !writer.includes(row));
    const formats = [...new Set(others.map(({ format }) => format))];
    const models = [...new Set(others.map(({ model }) => model))];
    const at = (model, format) => rows.find((row) => row.model === model && row.format === format);
    const cell = ({ bits, bytes }, { bytes: before }) => `${bits === undefined ? "" : `${bits.toFixed(2)}, `}${Math.round(bytes / 1000)} kB${bytes === before ? "" : `, ${percent(bytes / before, 0)}`}`;
    return [
      "Few bits in recurrent and convolutional networks",
      `All weights of ${float.model} (LSTM, embedding, projection) in few bits: bits that a character of the last tenth of tinyshakespeare costs, and bytes of the file. Bits per weight count scales and zero points.`,
      table(
        ["format", "method", "bits per weight", "bits per character", "more than fp32", "bytes", "brotli bytes"],
        writer.map((row) => [
          row.format,
          row.method ?? "",
          row.bits?.toFixed(2) ?? "32.00",
          row.bitsPerCharacter.toFixed(4),
          row.method ? (row.bitsPerCharacter - float.bitsPerCharacter).toFixed(4) : "",
          row.bytes,
          row.brotliBytes,
        ]),
      ),
      "Of other networks: bits per weight, rounded to nearest, the file, and its share of the float32 file. Biases, and weights of fewer than 256 elements, stay float32.",
      table(
        ["network", ...formats],
        models.map((model) => [model, ...formats.map((format) => cell(at(model, format), at(model, "fp32")))]),
      ),
    ];
  },
  "prune-channels": ({ rows, ratios }) => [
    "Channels removed from every model",
    `\`prune-channels --ratio ${ratios.join("` and `")}\` by l2, nothing trained: what is left of multiply-accumulates, parameters, and of the time of a run (one thread, both networks in turns on the same inputs). Axes that are normalized over stay, as by default. What stays, by reason, with the number of layers and the first of them.`,
    table(
      ["model", "ratio", "MACs left", "parameters left", "time left (95 %)", "what stays"],
      rows.map((row) => [
        row.name,
        row.ratio,
        ...(row.error
          ? ["", "", "", row.error]
          : [
              row.macs > 0 ? percent(row.macsAfter / row.macs, 0) : "",
              percent(row.parametersAfter / row.parameters, 0),
              interval(row.latency, (x) => x.toFixed(2)),
              row.ratio === ratios[0] ? row.stays.map(({ layers, first, why }) => `${layers > 1 ? `${layers} layers, ` : ""}\`${first}\`: ${why}`).join("; ").replaceAll("|", "\\|") : "",
            ]),
      ]),
    ),
  ],
  "prune-big": ({ rows }) => [
    "Pruning a model of 1 GB",
    "By magnitude, each in a fresh process; deciding is thresholds and every mask, with nothing written; seconds are those of a machine that did other work at the time, processor seconds are the process's own.",
    table(
      ["what", "seconds", "processor seconds", "peak memory", "file"],
      rows.map((row) => [
        row.what,
        row.seconds.toFixed(1),
        row.cpuSeconds === undefined ? "" : row.cpuSeconds.toFixed(1),
        megabytes(row.peakBytes),
        row.bytesAfter ? `${(row.bytes / row.bytesAfter).toFixed(2)} times smaller` : "",
      ]),
    ),
  ],
  "big-model": ({ rows }) => [
    "Models larger than memory",
    `Each in a fresh process, in turns with plain copies of the same file; seconds are medians, peaks are the largest seen. \`convert\` reads, quantizes and writes; \`verb\` is the whole command, with the proof and the sizes of both files. Rates are bytes of the input per second; \`of copy\` compares with the faster of the two copies. ${rows[0].all.length === 1 ? "One round only: a single copy can be off by a factor of two, so the ratios are no proof." : `${rows[0].all.length} rounds.`}`,
    table(
      ["model", "what", "seconds", "rate", "of copy", "processor seconds", "peak memory"],
      rows.map((row) => [
        `${row.model}, ${row.layout} weights`,
        row.what,
        row.seconds.toFixed(2),
        gigabytes(row.bytesPerSecond),
        row.bytesPerSecond === undefined || row.what.startsWith("copy") ? "" : percent(row.bytesPerSecond / copyRate(rows, row), 0),
        row.cpuSeconds === undefined ? "" : row.cpuSeconds.toFixed(2),
        megabytes(row.peakBytes),
      ]),
    ),
  ],
  gptq: ({ rows, load }) => [
    "GPTQ of one layer",
    `Codes from second moments, in turns with the engine's own matrix product of the same sizes, in one process; the machine's load was ${load.start} to ${load.end}. Operations are those that it needs, k³/3 for the Cholesky factor and n·k² for the updates; the last column counts the paper's way, with an inverse and a second factor (4/3 k³ + n·k²).`,
    table(
      ["layer", "seconds", "operations per second", "the engine's product", "ratio", "by the paper's count"],
      rows.map((row) => [
        `${row.k} × ${row.n}, ${row.name}`,
        row.seconds.toFixed(2),
        `${(row.operationsPerSecond / 1e9).toFixed(1)} G`,
        `${(row.engineOperationsPerSecond / 1e9).toFixed(1)} G`,
        row.ratio.toFixed(2),
        row.paperRatio.toFixed(2),
      ]),
    ),
  ],
  "llama-quantize": ({ rows, ratio, load, versions }) => [
    "4-bit weights beside llama.cpp",
    `Round to nearest in blocks of 32, the same float32 matrices as ONNX and as GGUF, in turns, fresh processes, warm files, two threads; pare with the start of Node, the peer's call alone. The machine's load was ${load.start} to ${load.end}. pare has **${ratio.toFixed(2)}** of the peer's throughput. pare keeps a float32 scale per block, as MatMulNBits wants it beside float32 activations, Q4_0 a float16 one.`,
    table(
      ["quantizer", "seconds", "per second of fp32", "written"],
      rows.map((row) => [
        versions[row.name] ? `${row.name} ${versions[row.name]}` : row.name,
        row.seconds.toFixed(2),
        `${(row.bytesPerSecond / 1e9).toFixed(2)} GB`,
        megabytes(row.writtenBytes),
      ]),
    ),
  ],
  calibration: ({ rows, samples, batch, activations, load }) => [
    "Static calibration beside inference",
    `resnet20 on ${samples} CIFAR-10 images in batches of ${batch}: ranges of ${activations} activations by each method, in turns with the model alone over the same images; the ratio is the share of plain inference's speed that is left, median of ${rows[0].all.length} rounds, least and most behind it. The machine's load was ${load.start} to ${load.end}.`,
    table(
      ["threads", "method", "seconds", "inference alone", "ratio", "least and most"],
      rows.map((row) => [
        row.threads,
        row.method,
        row.seconds.toFixed(2),
        row.plainSeconds.toFixed(2),
        row.ratio.toFixed(2),
        `${Math.min(...row.all).toFixed(2)} to ${Math.max(...row.all).toFixed(2)}`,
      ]),
    ),
  ],
  "calibration-memory": ({ rows }) => [
    "Memory of static calibration",
    "Peak resident memory of `quantize` (static int8) in fresh processes, medians: statistics are held, samples are not. Runs of the same case differ by some tens of megabytes, as the runtime collects garbage when it likes.",
    table(
      ["case", "samples", "peak memory", "least and most", "seconds"],
      rows.map((row) => [
        row.case,
        row.samples,
        megabytes(row.peakBytes),
        `${megabytes(Math.min(...row.all.map((one) => one.peakBytes)))} to ${megabytes(Math.max(...row.all.map((one) => one.peakBytes)))}`,
        row.seconds.toFixed(1),
      ]),
    ),
  ],
  "train-step": ({ rows, versions }) => [
    "Training steps",
    `Forward, loss, backward, SGD with momentum; in turns with PyTorch ${versions.torch}, each in a process of its own at its best thread count. Below 1 pare is faster, or smaller. Peak memory is that of the whole process, Node or Python included. jax-js${versions.jaxJs === "absent" ? " was not found" : ` ${versions.jaxJs}`}: its WebAssembly backend, where the step was written for it.`,
    table(
      ["network", "batch", "pare", "PyTorch", "jax-js", "ratio of medians", "ratio of fastest steps", "peak memory", "PyTorch's", "ratio"],
      rows.map((row) => [
        row.network,
        row.batch,
        `${milliseconds(row.pareSeconds)}, ${row.pareThreads} threads`,
        row.torchSeconds === undefined ? "not measured" : `${milliseconds(row.torchSeconds)}, ${row.torchThreads} threads`,
        row.jaxSeconds === undefined ? "" : milliseconds(row.jaxSeconds),
        row.ratio?.toFixed(2) ?? "",
        row.ratioOfMins?.toFixed(2) ?? "",
        megabytes(row.parePeakBytes),
        row.torchPeakBytes === undefined ? "" : megabytes(row.torchPeakBytes),
        row.ratioOfPeaks?.toFixed(2) ?? "",
      ]),
    ),
  ],
  "train-agreement": ({ rows, versions }) => [
    "Gradients beside PyTorch",
    `Largest difference of any parameter's gradient from PyTorch ${versions.torch} in double precision, relative to that parameter's largest gradient; beside it PyTorch's own error in single precision.`,
    table(
      ["network", "images", "activations", "parameters", "loss", "PyTorch's loss", "largest difference", "PyTorch in single precision", "agrees"],
      rows.map((row) => [
        row.network,
        row.layout,
        row.away ? "away from ReLU's corners" : "as initialised",
        row.parameters,
        row.loss.toFixed(6),
        row.torchLoss.toFixed(6),
        row.largestDifference.toExponential(1),
        row.torchSinglePrecision.toExponential(1),
        row.good ? "yes" : "**no**",
      ]),
    ),
  ],
  "operator-agreement": ({ rows, versions, tolerance }) => [
    "Gradients of operators beside PyTorch",
    `Largest difference of any input's gradient from PyTorch ${versions.torch} in double precision, relative to its largest element; ${tolerance} is allowed.`,
    table(
      ["operator", "PyTorch", "largest difference", "agrees"],
      rows.map((row) => [row.operator, `\`${row.torch}\``, row.largestDifference.toExponential(1), row.good ? "yes" : "**no**"]),
    ),
  ],
  "static-int8": ({ rows }) => [
    "Static quantization of real networks",
    "Accuracy with 95 % intervals, and its difference from fp32 on the same samples; speed over fp32, timed in turns, by samples per run and threads. Naive: one scale per tensor, ranges of everything seen, nothing corrected. onnxruntime: its own quantizer for Python, on the same calibration samples. Networks without a training part are calibrated on one half and judged on the other, both ways.",
    table(
      ["network", "variant", "samples", "accuracy", "difference", "bytes", "brotli bytes", ...rows[0].speeds.map(timed), "seconds to make"],
      rows.map((row) =>
        row.error
          ? [row.network, row.variant, row.error, "", "", "", "", ...rows[0].speeds.map(() => ""), ""]
          : [
              row.network,
              row.variant,
              row.samples,
              interval(row.accuracy, percent),
              interval(row.difference, percent),
              row.bytes,
              row.brotliBytes,
              ...row.speeds.map(({ ratio }) => `${(1 / ratio.value).toFixed(2)}×`),
              row.seconds,
            ],
      ),
    ),
  ],
  "real-models": ({ rows, batch }) => [
    "Techniques on real networks",
    `Accuracy with 95 % intervals, and its difference from fp32 on the same samples; speed over fp32, timed in turns, at batch 1${batch ? ` and ${batch}` : ""}.`,
    table(
      ["network", "variant", "samples", "accuracy", "difference", "bytes", "brotli bytes", "speed", ...(batch ? [`speed, batch ${batch}`] : [])],
      rows.map((row) =>
        row.error
          ? [row.network, row.variant, row.error, "", "", "", "", "", ...(batch ? [""] : [])]
          : [
              row.network,
              row.variant,
              row.samples,
              interval(row.accuracy, percent),
              row.difference ? interval(row.difference, percent) : "",
              row.bytes,
              row.brotliBytes,
              faster(row.latencyRatio),
              ...(batch ? [row.latencyRatioBatch ? faster(row.latencyRatioBatch) : ""] : []),
            ],
      ),
    ),
  ],
};

function timed({ batch, threads }) {
  return `speed, batch ${batch}, ${threads} thread${threads > 1 ? "s" : ""}`;
}

function copyRate(rows, { model, layout }) {
  return Math.max(
    ...rows.filter((row) => row.model === model && row.layout === layout && row.what.startsWith("copy")).map((row) => row.bytesPerSecond),
  );
}

/** The machine, the command, and what a reader should hold against the figures. */
function about({ command, date, machine, versions: own, load, threads }) {
  const versions = Object.entries(own ?? machine.versions ?? {}).map(([name, version]) => `${name} ${String(version).replace(/^v/, "")}`);
  const { cpu, cores, memoryBytes, features } = machine;
  const parts = [
    `${cpu}${cores ? `, ${cores} cores` : ""}${threads ? `, ${threads} threads used` : ""}`,
    memoryBytes ? `${Math.round(memoryBytes / 2 ** 30)} GiB of memory` : undefined,
    features?.length ? features.join(", ") : undefined,
    versions.join(", "),
  ];
  const lines = [`\`${command}\`${date ? ` on ${date.slice(0, 10)}` : ""}: ${parts.filter(Boolean).join("; ")}.`];
  if (load && cores && Math.max(load.start, load.end) > cores)
    lines.push(
      `The machine was not idle: its load was ${load.start} at the start and ${load.end} at the end, on ${cores} cores. Wall times, and ratios of them over few rounds, are longer and vary more than on a quiet one; processor times and peaks of memory suffer less.`,
    );
  return lines.join(" ");
}

const found = readdirSync(runs).filter((name) => name.endsWith(".json"));
const unknown = found.filter((name) => !Object.hasOwn(SECTIONS, name.slice(0, -5)));
if (unknown.length > 0) {
  console.error(`No section for ${unknown.join(", ")}: add one to bench/results.mjs`);
  process.exit(2);
}
const page = [
  "# Results of the benchmarks",
  "Generated by `node bench/results.mjs` from the recorded runs in `bench/runs`. Each section names its command and machine.",
  ...Object.entries(SECTIONS)
    .filter(([name]) => found.includes(`${name}.json`))
    .flatMap(([name, section]) => {
      const run = JSON.parse(readFileSync(join(runs, `${name}.json`), "utf8"));
      const [title, ...parts] = section(run);
      return [`## ${title}`, ...parts, about(run)];
    }),
  "",
].join("\n\n").trimEnd();
const path = join(root, "bench", "RESULTS.md");
if (process.argv.includes("--check")) {
  if (!existsSync(path) || readFileSync(path, "utf8") !== `${page}\n`) {
    console.error("bench/RESULTS.md is not what bench/runs gives: node bench/results.mjs");
    process.exit(1);
  }
} else writeFileSync(path, `${page}\n`);
