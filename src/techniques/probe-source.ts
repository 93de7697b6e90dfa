/** What variants of a model are judged on: the user's samples, or what calibration falls back to. */
import type { ProbeSource } from "../evaluate/probe.ts";
import type { Model } from "../ir/model.ts";
import type { Feeds } from "../run/session.ts";
import { calibrationOf } from "./calibration.ts";
import type { Context } from "./technique.ts";

/** The user's samples, else text that the model writes, else random numbers; `on` names them for people. */
export async function sourceOf(
  model: Model,
  options: { readonly samples?: number | undefined; readonly length?: number | undefined },
  context: Context,
): Promise<{ readonly source: ProbeSource; readonly on: string }> {
  const { data } = context;
  if (data) {
    const count = Math.min(options.samples ?? 256, data.size);
    return { source: { data }, on: `${count} samples of ${data.name}` };
  }
  const calibration = await calibrationOf(
    model,
    { samples: Math.min(options.samples ?? 32, 32), length: options.length ?? 64 },
    context,
  );
  const feeds: Feeds[] = [];
  for await (const each of calibration.stream()) feeds.push(each);
  return { source: { feeds }, on: calibration.note.replace(/^Calibrated on /, "").replace(/\.$/, "") };
}
