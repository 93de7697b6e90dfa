/** Which parts of a transformer the studies remove, by which criteria, and how much. */
import { pruneBlocks } from "../../dist/techniques/prune/blocks/prune-blocks.js";
import { pruneChannels } from "../../dist/techniques/prune/channels/prune-channels.js";

const CRITERIA = ["random", "l2", "activation-mean", "taylor", "fisher"];
const SAMPLES = 32;

/** Heads and neurons: the same share of every layer, or of all layers together. */
function channels(kind, amounts, scope, rest = {}) {
  return CRITERIA.flatMap((score) =>
    amounts.map((amount) => ({
      part: `${kind}${rest.queries === "evenly" ? ", one query of each key" : ""}${scope === "global" ? ", all layers together" : ""}`,
      score,
      amount,
      step: () => pruneChannels({ kind: [kind], ratio: amount, score, scope, samples: SAMPLES, ...rest }),
    })),
  );
}

/** Residual blocks (attention or MLP by itself), or whole layers: so many of all. */
function blocks(unit, counts, options = [{}]) {
  return ["random", "magnitude", "influence", "output"].flatMap((score) =>
    options.flatMap((more) =>
      more.greedy && score !== "output"
        ? []
        : counts.map((count) => ({
            part: `${unit}s`,
            score: more.greedy ? "output, one by one" : score,
            amount: count,
            step: () => pruneBlocks({ unit, count, score, samples: SAMPLES, ...more }),
          })),
    ),
  );
}

/** `grouped`: the network has queries that share keys; `layers`: how many layers it has. */
export function cuts({ grouped, layers }) {
  const some = (list) => list.filter((count) => count < layers);
  return [
    ...channels("heads", [0.25, 0.5], "local"),
    ...channels("heads", [0.25, 0.5], "global"),
    ...(grouped ? channels("heads", [0.5], "local", { queries: "evenly" }) : []),
    ...channels("neurons", [0.1, 0.3, 0.5, 0.7], "local"),
    ...channels("neurons", [0.3, 0.5], "global"),
    ...blocks("block", [1, 2, 3, 4], [{}, { greedy: true }]),
    ...blocks("layer", some([1, 2])),
  ];
}
