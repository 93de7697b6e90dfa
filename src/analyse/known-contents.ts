/** What small integer tensors of a model hold at every run. */
import { isConcrete } from "../base/shape.ts";
import type { Model } from "../ir/model.ts";
import type { RuleContext } from "../ops/spec.ts";
import { inferTypes } from "./shapes.ts";

/** Contents of the small integer tensors of a model that inference finds to be the same at every run. */
export function knownContents(model: Model): RuleContext["contents"] {
  const { types } = inferTypes(model);
  return (value) => {
    const contents = value && types.get(value)?.contents;
    return isConcrete(contents) ? contents : undefined;
  };
}
