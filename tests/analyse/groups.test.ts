/** Groups of channels: what is tied, what is frozen and why, and how it reads. */
import { describe, expect, it } from "vitest";
import { groupsText } from "../../src/analyse/groups-text.ts";
import { channelGroups, membersOf } from "../../src/analyse/groups.ts";
import { Builder } from "../../src/ir/builder.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

function weight(b: Builder, name: string, shape: readonly number[]): ReturnType<Builder["constant"]> {
  return b.constant(name, Tensor.float32(shape, new Float32Array(shape.reduce((x, y) => x * y, 1))));
}

describe("channel groups", () => {
  it("follow residual sums, and concatenations by their offsets", () => {
    const model = new Model();
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", ["n", 3, 8, 8]);
    const conv = (name: string, input: typeof x, from: number, to: number): typeof x =>
      b.op("Conv", [input, weight(b, `${name}.w`, [to, from, 1, 1])], { name });
    const first = conv("first", x, 3, 4);
    const second = conv("second", first, 4, 4);
    const sum = b.op("Add", [first, second]);
    const third = conv("third", sum, 4, 2);
    const joined = b.op("Concat", [sum, third], { attributes: { axis: 1 } });
    b.output(conv("last", joined, 6, 5), "y");
    const { families, frozen } = channelGroups(model);
    expect(families.map(({ name, groups }) => [name, groups.length])).toEqual([
      ["first", 4],
      ["third", 2],
    ]);
    const members = (family: number, group: number): string[] =>
      membersOf(families[family]?.groups[group] as never)
        .filter(({ value }) => value.tensor)
        .map(({ value, axis, indices }) => `${value.name} ${axis}: ${indices.join()}`);
    expect(members(0, 3)).toEqual(
      ["first.w 0: 3", "second.w 1: 3", "second.w 0: 3", "third.w 1: 3", "last.w 1: 3"].sort(byOrder(members(0, 3))),
    );
    expect(members(1, 1)).toEqual(expect.arrayContaining(["third.w 0: 1", "last.w 1: 5"]));
    expect(frozen).toEqual([{ name: "last", count: 5, size: 5, reason: "'y': the model's output" }]);
  });

  it("name the operator that nobody knows", () => {
    const model = new Model();
    model.opsets.set("custom", 1);
    const b = new Builder(model.graph);
    const x = b.input("x", "float32", [1, 3]);
    const hidden = b.op("MatMul", [x, weight(b, "w", [3, 4])], { name: "hidden" });
    hidden.shape = [1, 4];
    b.output(b.op("Mystery", [hidden], { name: "odd", domain: "custom" }), "y");
    const found = channelGroups(model);
    expect(found.families).toEqual([]);
    expect(groupsText(found)).toBe(
      "0 families, 0 groups\nChannels that stay:\n  hidden: all 4: '" +
        `${hidden.name}': Mystery 'odd' is not an operator that pare knows`,
    );
  });
});

/** The order in which they were found is not part of the promise. */
function byOrder(found: readonly string[]): (a: string, b: string) => number {
  return (a, b) => found.indexOf(a) - found.indexOf(b);
}
