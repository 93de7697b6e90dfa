/** Architectures by name. */
import { PareError, nearest } from "../base/error.ts";
import type { Model } from "../ir/model.ts";
import type { Architecture } from "./architecture.ts";
import { bertMini } from "./bert.ts";
import { convnextTiny } from "./convnext.ts";
import { efficientnetB0 } from "./efficientnet.ts";
import { gptNano } from "./gpt.ts";
import { kws } from "./kws.ts";
import { lenet5 } from "./lenet.ts";
import { lstmLm } from "./lstm-lm.ts";
import { lenet300100, mlp } from "./mlp.ts";
import { mobilenetV1 } from "./mobilenet-v1.ts";
import { mobilenetV2 } from "./mobilenet-v2.ts";
import { mobilenetV3Large, mobilenetV3Small } from "./mobilenet-v3.ts";
import { resnet18, resnet20, resnet32, resnet50, resnet56 } from "./resnet.ts";
import { shufflenetV2 } from "./shufflenet-v2.ts";
import { smallCnn } from "./small-cnn.ts";
import { squeezenet } from "./squeezenet.ts";
import { vggSmall } from "./vgg.ts";
import { vitTiny } from "./vit.ts";

/** Every architecture, by name: for small images, for large ones, for text, for sound. */
export const ARCHITECTURES: ReadonlyMap<string, Architecture> = new Map(
  [
    mlp,
    lenet300100,
    lenet5,
    smallCnn,
    vggSmall,
    resnet20,
    resnet32,
    resnet56,
    resnet18,
    resnet50,
    mobilenetV1,
    mobilenetV2,
    mobilenetV3Large,
    mobilenetV3Small,
    squeezenet,
    efficientnetB0,
    shufflenetV2,
    convnextTiny,
    vitTiny,
    bertMini,
    gptNano,
    lstmLm,
    kws,
  ].map((architecture) => [architecture.name, architecture]),
);

/** Options of any architecture; `input` is the shape of one sample, `classes` the number of outputs. */
export interface BuildOptions {
  readonly input?: readonly number[] | string | undefined;
  readonly classes?: number | undefined;
  /** Seed of the weights; default 1. */
  readonly seed?: number | undefined;
  readonly [option: string]: unknown;
}

/** Builds an architecture with weights drawn from the seed: input `input` (batch, …), output `logits` (batch, classes). */
export function buildArchitecture(name: string, options: BuildOptions = {}): Model {
  const architecture = ARCHITECTURES.get(name);
  if (!architecture) {
    const near = nearest(name, ARCHITECTURES.keys());
    throw new PareError("bad-option", `Unknown architecture '${name}'`, {
      help: near ? `Did you mean '${near}'?` : `Known: ${[...ARCHITECTURES.keys()].join(", ")}`,
    });
  }
  const { seed = 1, ...rest } = options;
  const known = Object.keys(architecture.options.shape);
  for (const key of Object.keys(rest))
    if (!known.includes(key)) {
      const near = nearest(key, known);
      throw new PareError("bad-option", `Unknown option '${key}'`, {
        where: name,
        expected: `one of ${known.join(", ")}`,
        ...(near ? { help: `Did you mean '${near}'?` } : {}),
      });
    }
  const checked = architecture.options.safeParse(rest);
  if (!checked.success) {
    const issue = checked.error.issues[0];
    throw new PareError("bad-option", issue?.message ?? "Invalid option", {
      where: `${name} ${issue?.path.join(".") ?? ""}`,
    });
  }
  return architecture.build(checked.data, seed);
}
