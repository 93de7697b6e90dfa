/** What one unit reads in the quantized model, and what it should give according to the float model, for some samples. */
import { throwIfAborted } from "../../../base/error.ts";
import type { Model } from "../../../ir/model.ts";
import { joinRows } from "../../../run/arrays.ts";
import { exposeValues } from "../../../run/expose.ts";
import type { FeedStream } from "../../../run/feed-stream.ts";
import type { NdArray } from "../../../run/session.ts";
import { joinModels } from "../../../transform/join.ts";
import { engine } from "../../engine.ts";
import type { Context } from "../../technique.ts";
import { Frontier } from "../../tune/frontier.ts";
import type { Unit } from "./units.ts";

/** Bytes of samples that are held for one unit; further samples are left out. */
const UNIT_BYTES = 256 * 2 ** 20;

export interface UnitSamples {
  readonly input: NdArray;
  readonly output: NdArray;
  readonly target: NdArray;
}

/** Runs both models side by side, from a cut that follows the units. */
export class UnitSampler {
  readonly #quantized: Model;
  readonly #reference: Model;
  readonly #frontier: Frontier;
  readonly #context: Context;

  constructor(quantized: Model, reference: Model, stream: FeedStream, samples: number, context: Context) {
    this.#quantized = quantized;
    this.#reference = reference;
    this.#frontier = new Frontier(stream, samples);
    this.#context = context;
  }

  /** Samples of the first of the units that are left; those before it have their final weights. */
  async collect(left: readonly Unit[]): Promise<UnitSamples> {
    const unit = left[0] as Unit;
    const { threads, signal } = this.#context;
    const { model, names } = joinModels(this.#quantized, this.#reference, { prefix: "float/" });
    const targetOf = ({ target }: Unit): string => names.get(target) ?? target;
    const later = new Set(left.flatMap((each) => [targetOf(each), each.input.name]));
    const run = this.#frontier.run(model, unit.level, later);
    const wanted = { input: unit.input.name, output: unit.output.name, target: targetOf(unit) };
    const { openSession } = await engine();
    const asked = [...new Set([...run.fetch, ...Object.values(wanted)])];
    const part = exposeValues(run.model, asked);
    const read = part.graph.inputs.filter((value) => value.uses.length > 0);
    part.graph.inputs.splice(0, part.graph.inputs.length, ...read);
    const session = await openSession(part, { threads, signal });
    const parts: Record<keyof UnitSamples, NdArray[]> = { input: [], output: [], target: [] };
    let bytes = 0;
    try {
      for await (const feeds of run.stream()) {
        throwIfAborted(signal);
        const fed = Object.fromEntries(
          session.inputs.flatMap(({ name }) => (feeds[name] ? [[name, feeds[name] as NdArray]] : [])),
        );
        const arrays = await session.run(fed);
        run.fetched(arrays, feeds);
        if (bytes > UNIT_BYTES) continue;
        for (const [part, name] of Object.entries(wanted)) {
          const array = (arrays[name] ?? feeds[name]) as NdArray;
          parts[part as keyof UnitSamples].push(array);
          bytes += 4 * array.data.length;
        }
      }
    } finally {
      await session.close();
    }
    run.advance();
    return { input: joinRows(parts.input), output: joinRows(parts.output), target: joinRows(parts.target) };
  }
}
