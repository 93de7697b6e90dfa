/** LeNet-5 in the form that came with Caffe (LeCun et al. 1998; Jia et al. 2014): 431,080 parameters on 28×28 images. */
import { z } from "zod";
import { PareError } from "../base/error.ts";
import { Rng } from "../base/rng.ts";
import { type Architecture, classes, defineArchitecture, inputShape } from "./architecture.ts";
import { conv, dense, endNet, flatten, maxPool, relu, startNet } from "./blocks/layers.ts";

export const lenet5: Architecture = defineArchitecture({
  name: "lenet-5",
  summary: "Two 5x5 convolutions (20, 50) with pooling, then 500 units: 431,080 parameters on 28x28 images.",
  options: z.object({ input: inputShape([1, 28, 28]), classes }),
  build(options, seed) {
    const [channels, height, width] = options.input;
    if (channels === undefined || height === undefined || width === undefined || Math.min(height, width) < 16)
      throw new PareError("bad-option", "lenet-5 takes images of at least 16x16 pixels", {
        found: options.input.join("x"),
        expected: "channels x height x width, such as 1x28x28",
      });
    const shrunk = (size: number): number => Math.floor((Math.floor((size - 4) / 2) - 4) / 2);
    const features = 50 * shrunk(height) * shrunk(width);
    const { net, input } = startNet(new Rng(seed), "lenet-5", options.input);
    const first = maxPool(net, "pool1", conv(net, "conv1", input, channels, 20, { kernel: 5, pad: 0 }));
    const second = maxPool(net, "pool2", conv(net, "conv2", first, 20, 50, { kernel: 5, pad: 0 }));
    const hidden = relu(net, "relu1", dense(net, "fc1", flatten(net, "flatten", second), features, 500));
    return endNet(net, dense(net, "fc2", hidden, 500, options.classes, "glorot-uniform"), options.classes);
  },
});
