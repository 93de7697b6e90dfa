/** Finds every TensorProto inside a message, in subgraphs, functions and training graphs too. */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { type TensorProto, TensorProtoSchema } from "./gen/onnx_pb.js";

interface Step {
  readonly property: string;
  readonly list: boolean;
  readonly schema: DescMessage;
}

const steps = new Map<string, readonly Step[]>();

/** True if a message of this type can hold a tensor, directly or deeper. */
function leadsToTensor(schema: DescMessage, seen: Set<string> = new Set()): boolean {
  if (schema.typeName === TensorProtoSchema.typeName) return true;
  if (seen.has(schema.typeName)) return false;
  seen.add(schema.typeName);
  return schema.fields.some((field) => field.message && leadsToTensor(field.message, seen));
}

function stepsOf(schema: DescMessage): readonly Step[] {
  const known = steps.get(schema.typeName);
  if (known) return known;
  const found = schema.fields.flatMap((field): Step[] =>
    field.message && leadsToTensor(field.message)
      ? [{ property: field.localName, list: field.fieldKind === "list", schema: field.message }]
      : [],
  );
  steps.set(schema.typeName, found);
  return found;
}

/** Calls `visit` with every tensor inside `message`, in file order of each field. */
export function walkTensors(schema: DescMessage, message: Message, visit: (tensor: TensorProto) => void): void {
  if (schema.typeName === TensorProtoSchema.typeName) {
    visit(message as TensorProto);
    return;
  }
  const fields = message as unknown as Readonly<Record<string, Message | readonly Message[] | undefined>>;
  for (const step of stepsOf(schema)) {
    const value = fields[step.property];
    if (value === undefined) continue;
    if (step.list) for (const child of value as readonly Message[]) walkTensors(step.schema, child, visit);
    else walkTensors(step.schema, value as Message, visit);
  }
}
