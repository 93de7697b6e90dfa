/** Typed access to the options of a data name; every mistake is a `bad-data` error that names the option. */
import { PareError } from "../base/error.ts";

export class NameOptions {
  readonly #name: string;
  readonly #values: Readonly<Record<string, string>>;

  /** `name` is the whole data name, for messages. */
  constructor(name: string, values: Readonly<Record<string, string>>) {
    this.#name = name;
    this.#values = values;
  }

  /** The whole data name. */
  get name(): string {
    return this.#name;
  }

  text(option: string): string | undefined {
    return this.#values[option];
  }

  /** A finite number, or undefined when the option is absent. */
  number(option: string): number | undefined {
    const text = this.#values[option];
    return text === undefined ? undefined : this.#parse(option, text);
  }

  /** A finite number other than 0. */
  nonzero(option: string): number | undefined {
    const value = this.number(option);
    if (value === 0) this.fail(option, "0", "a number other than 0: values are divided by it");
    return value;
  }

  /** An integer in [low, high]. */
  integer(option: string, low: number, high: number = Number.MAX_SAFE_INTEGER): number | undefined {
    const value = this.number(option);
    if (value !== undefined && !(Number.isInteger(value) && value >= low && value <= high))
      this.fail(
        option,
        String(value),
        high === Number.MAX_SAFE_INTEGER ? `an integer of at least ${low}` : `an integer from ${low} to ${high}`,
      );
    return value;
  }

  /** Comma-separated finite numbers. */
  numbers(option: string): number[] | undefined {
    return this.#values[option]?.split(",").map((part) => this.#parse(option, part));
  }

  /** Comma-separated words. */
  words(option: string): string[] | undefined {
    return this.#values[option]?.split(",").map((part) => part.trim());
  }

  /** One of the given words. */
  choice<T extends string>(option: string, choices: readonly T[]): T | undefined {
    const text = this.#values[option];
    if (text === undefined) return undefined;
    const found = choices.find((choice) => choice === text);
    return found ?? this.fail(option, `'${text}'`, choices.join(" or "));
  }

  /** `yes` or `no`. */
  flag(option: string): boolean | undefined {
    const word = this.choice(option, ["yes", "no"]);
    return word === undefined ? undefined : word === "yes";
  }

  /** One length for height and width, or `HEIGHTxWIDTH`. */
  extent(option: string): readonly [number, number] | undefined {
    const text = this.#values[option];
    if (text === undefined) return undefined;
    const match = /^(\d{1,5})(?:x(\d{1,5}))?$/.exec(text);
    const height = Number(match?.[1] ?? 0);
    const width = Number(match?.[2] ?? height);
    if (height < 1 || width < 1) this.fail(option, `'${text}'`, "pixels: 224, or HEIGHTxWIDTH such as 96x128");
    return [height, width];
  }

  fail(option: string, found: string, expected: string, help?: string): never {
    throw new PareError("bad-data", `Option '${option}' does not fit`, {
      where: this.#name,
      found,
      expected,
      ...(help === undefined ? {} : { help }),
    });
  }

  #parse(option: string, text: string): number {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    return Number.isFinite(value) ? value : this.fail(option, `'${text}'`, "a number");
  }
}
