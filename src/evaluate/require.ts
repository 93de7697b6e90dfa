/** Requirements on a result, as people write them: `accuracy>=0.9`, `ratio>=3`, `sqnrDb>20`. */
import { PareError, nearest } from "../base/error.ts";

export interface Requirement {
  readonly text: string;
  readonly name: string;
  readonly operator: ">=" | "<=" | ">" | "<";
  readonly bound: number;
}

/** Parses one requirement. Throws `bad-option` for anything else. */
export function parseRequirement(text: string): Requirement {
  const match = /^\s*([A-Za-z][\w.-]*)\s*(>=|<=|>|<)\s*(-?[\d.]+(?:e-?\d+)?)\s*$/.exec(text);
  const bound = Number(match?.[3]);
  if (!match || Number.isNaN(bound))
    throw new PareError("bad-option", "Cannot read this requirement", {
      where: "--require",
      found: `'${text}'`,
      expected: "a name, one of >= <= > <, and a number: 'accuracy>=0.9'",
    });
  return { text, name: match[1] as string, operator: match[2] as Requirement["operator"], bound };
}

export interface Verdict {
  readonly requirement: string;
  readonly value: number;
  readonly met: boolean;
}

/** Judges requirements on measured quantities. A name that was not measured is an error, never a pass. */
export function judge(
  requirements: readonly Requirement[],
  measured: Readonly<Record<string, number | undefined>>,
): Verdict[] {
  return requirements.map(({ text, name, operator, bound }) => {
    const value = measured[name];
    if (value === undefined) {
      const names = Object.keys(measured).filter((key) => measured[key] !== undefined);
      const near = nearest(name, names);
      throw new PareError("bad-option", `'${name}' was not measured here`, {
        where: `--require '${text}'`,
        expected: `one of ${names.join(", ")}`,
        ...(near ? { help: `Did you mean '${near}'?` } : {}),
      });
    }
    const met =
      operator === ">="
        ? value >= bound
        : operator === "<="
          ? value <= bound
          : operator === ">"
            ? value > bound
            : value < bound;
    return { requirement: text, value, met };
  });
}
