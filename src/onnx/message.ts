/** Shallow copies of messages: presence and unknown fields kept, the original left alone. */
import type { Message } from "@bufbuild/protobuf";

/** A copy of `message` with `changes` set; a change to undefined clears the field. Children are shared. */
export function copyMessage<M extends Message>(
  message: M,
  changes: { readonly [K in keyof M]?: M[K] | undefined } = {},
): M {
  const copy = Object.assign(Object.create(Object.getPrototypeOf(message)) as M, message);
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) Reflect.deleteProperty(copy, key);
    else Reflect.set(copy, key, value);
  }
  return copy;
}
