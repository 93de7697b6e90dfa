/** What a search may try for an option: carried in the option's schema as `.meta({ search: … })`. */

/** A numeric range; `log` samples it on a logarithmic scale. */
export interface SearchRange {
  readonly low: number;
  readonly high: number;
  readonly log?: boolean;
  readonly integer?: boolean;
}

/** A list of values. */
export interface SearchChoices {
  readonly choices: readonly (string | number | boolean)[];
}

export type Search = SearchRange | SearchChoices;

export function range(
  low: number,
  high: number,
  kind: { readonly log?: boolean; readonly integer?: boolean } = {},
): SearchRange {
  return { low, high, ...kind };
}

export function choices(...values: readonly (string | number | boolean)[]): SearchChoices {
  return { choices: values };
}
