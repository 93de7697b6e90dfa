import { type Server, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { Builder } from "../../src/ir/builder.ts";
import { encodeModel } from "../../src/ir/encode.ts";
import { load } from "../../src/ir/load.ts";
import { Model } from "../../src/ir/model.ts";
import { Tensor } from "../../src/ir/tensor.ts";

let server: Server | undefined;
afterEach(() => server?.close());

/** Serves one file at /m.onnx; `sent` counts the bytes that went out. */
async function serve(
  bytes: Uint8Array,
  mode: "ranges" | "whole" | "wrong-length",
): Promise<{ url: URL; sent: () => number }> {
  let sent = 0;
  server = createServer((request, response) => {
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
    if (request.url !== "/m.onnx") response.writeHead(404).end();
    else if (!range || mode === "whole") {
      sent += bytes.length;
      response.writeHead(200).end(bytes);
    } else {
      const end = Number(range[2]) + 1 - (mode === "wrong-length" && range[2] !== "0" ? 1 : 0);
      const part = bytes.subarray(Number(range[1]), end);
      sent += part.length;
      response.writeHead(206, { "content-range": `bytes ${range[1]}-${end - 1}/${bytes.length}` }).end(part);
    }
  });
  await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { url: new URL(`http://127.0.0.1:${port}/m.onnx`), sent: () => sent };
}

async function bigModel(): Promise<Uint8Array<ArrayBuffer>> {
  const model = new Model();
  const b = new Builder(model.graph);
  const w = Tensor.float32(
    [500, 500],
    Float32Array.from({ length: 250_000 }, (_, i) => i),
  );
  b.output(b.op("MatMul", [b.input("x", "float32", [1, 500]), b.constant("w", w)]));
  return encodeModel(model);
}

describe("a model behind HTTP", () => {
  it("is read by ranges: the graph on loading, a weight when it is asked for", async () => {
    const bytes = await bigModel();
    const { url, sent } = await serve(bytes, "ranges");
    const model = await load(url);
    expect(sent()).toBeLessThan(200_000);
    expect(Buffer.compare(await encodeModel(model), bytes)).toBe(0);
  });

  it("is read whole from a server without ranges", async () => {
    const bytes = await bigModel();
    const { url } = await serve(bytes, "whole");
    expect(Buffer.compare(await encodeModel(await load(url)), bytes)).toBe(0);
  });

  it("is an error when it is absent, or when the server sends something else", async () => {
    const { url } = await serve(await bigModel(), "wrong-length");
    await expect(load(new URL("/absent.onnx", url))).rejects.toMatchObject({ code: "missing-file" });
    await expect(load(url)).rejects.toMatchObject({ code: "bad-model" });
    server?.close();
    await expect(load(new URL("http://127.0.0.1:1/m.onnx"))).rejects.toMatchObject({ code: "missing-file" });
  });
});
