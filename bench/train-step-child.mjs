/**
 * Training steps of one network in a process of its own: network, batch, steps, threads, layout ("plain" or "best"). Prints
 * the median and the shortest step in seconds and the peak memory in bytes, before the engine was used and at the end.
 */
import { openSession } from "../dist/run/open-session.node.js";
import { imageBlock } from "../dist/train/blocked/image-block.js";
import { buildStepGraph } from "../dist/train/step-graph.js";
import { buildNetwork, samples } from "./networks.mjs";
import { median } from "./support.mjs";

const [name, layout] = [process.argv[2], process.argv[6]];
const [batch, steps, threads] = process.argv.slice(3, 6).map(Number);
const peak = () => process.resourceUsage().maxRSS * 1024;
const emptyBytes = peak();
const model = buildNetwork(name);
const graph = buildStepGraph(model, { batch, block: layout === "plain" ? undefined : await imageBlock(openSession) });
const session = await openSession(graph.model, { inProcess: true, threads });
const resident = await session.resident(await graph.initialState(), graph.links);
const feeds = samples(model, graph, batch, Math.random);
const seconds = [];
for (let step = 0; step < steps + 3; step++) {
  const start = performance.now();
  await resident.step({ ...feeds, ...graph.scalars({ step, learningRate: 0.01 }) }, [graph.loss]);
  seconds.push((performance.now() - start) / 1000);
}
await session.close();
const counted = seconds.slice(3);
console.log(JSON.stringify({ median: median(counted), min: Math.min(...counted), peakBytes: peak(), emptyBytes }));
