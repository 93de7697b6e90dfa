/** Importance of weights by the gradient of the loss: on labels where the samples have them, else on the model's own answers. */
import type { Model } from "../../../ir/model.ts";
import { grad, gradientName } from "../../../train/grad.ts";
import type { WeightSite } from "../../../transform/weight-sites.ts";
import type { CalibrationOptions } from "../../calibration.ts";
import type { Context } from "../../technique.ts";
import { eachLossGradient } from "../loss-gradients.ts";
import type { GradientScore } from "./scores.ts";

/**
 * taylor: |w·E[g]|, the change of the loss to first order (Molchanov et al. 2017, arXiv 1611.06440); fisher: w²·E[g²], the change to
 * second order with the Fisher information as the Hessian's diagonal (Theis et al. 2018, arXiv 1801.05787). E is over samples,
 * one by one. Without labels the likeliest answer stands for the label: of drawn ones E[g] would be zero. By names of weights;
 * float32 weights of the main graph only.
 */
export async function gradientScores(
  model: Model,
  sites: readonly WeightSite[],
  kind: GradientScore,
  options: CalibrationOptions,
  context: Context,
): Promise<Map<string, Float32Array>> {
  const wanted = sites.filter(({ graph, tensor }) => graph === model.graph && tensor.dtype === "float32");
  const names = wanted.map(({ value }) => value.name);
  const sums = new Map(wanted.map(({ value, tensor }) => [value.name, new Float64Array(tensor.elements)]));
  const count = await eachLossGradient(
    model,
    (lossModel) => grad(lossModel.model, { of: lossModel.loss, wrt: names }),
    { ...options, answers: "likeliest" },
    context,
    (results) => {
      for (const [name, sum] of sums) {
        const g = results[gradientName(name)]?.data as Float32Array;
        for (let i = 0; i < sum.length; i++) {
          const x = g[i] as number;
          sum[i] = (sum[i] as number) + (kind === "taylor" ? x : x * x);
        }
      }
    },
  );
  const scores = new Map<string, Float32Array>();
  for (const { value, tensor } of wanted) {
    const weights = (await tensor.data()) as Float32Array;
    const sum = sums.get(value.name) as Float64Array;
    scores.set(
      value.name,
      weights.map(
        (w, i) => (kind === "taylor" ? Math.abs(w * (sum[i] as number)) : w * w * (sum[i] as number)) / count,
      ),
    );
  }
  return scores;
}
