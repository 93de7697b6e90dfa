/** Where a worker's script lies: in dist/ also when the caller runs from src/, since worker threads load JavaScript only. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { PareError } from "./error.ts";

/** URL of the script `./name.node.ts` beside the module at `base` (`import.meta.url`), as built JavaScript. */
export function workerUrl(base: string, script: string): URL {
  const url = new URL(script.replace(/\.ts$/, ".js"), base);
  if (!new URL(base).pathname.endsWith(".ts")) return url;
  const source = url.href.lastIndexOf("/src/");
  const built = new URL(`${url.href.slice(0, source)}/dist/${url.href.slice(source + 5)}`);
  if (!existsSync(fileURLToPath(built)))
    throw new PareError("internal", `The worker script ${fileURLToPath(built)} has not been built`, {
      help: "Run 'npm run build'",
    });
  return built;
}
