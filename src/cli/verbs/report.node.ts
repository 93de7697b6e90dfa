/** `pare report`: pages and tables from results.json. */
import { readFile } from "node:fs/promises";
import { type Command } from "commander";
import { PareError, messageOf } from "../../base/error.ts";
import { frontSvg } from "../../report/front-svg.ts";
import { htmlReport } from "../../report/html.ts";
import { markdownReport } from "../../report/markdown.ts";
import { type Results, parseResults, resultsJson } from "../../report/results.ts";
import { isTrainingResults, trainingPage, type TrainingResults } from "../../report/training-run.ts";
import { checkOutput } from "../../techniques/compress-file.node.ts";
import { writeWhole } from "../files.node.ts";
import { addCommonOptions, addOutputOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

const WRITERS: Readonly<Record<string, (results: Results) => string>> = {
  html: htmlReport,
  svg: (results) => frontSvg(results),
  md: markdownReport,
  json: resultsJson,
};

export function addReport(program: Command): void {
  const verb = program
    .command("report <results>")
    .summary("one self-contained page from results.json, or from the JSON of a training run")
    .description("Writes .html (interactive, self-contained), .svg (the front), .md or .json, by the output's ending.");
  addOutputOptions(verb, "report.html, front.svg, report.md or results.json");
  addCommonOptions(verb).action((path: string, parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const output = parsed["output"] as string;
      await checkOutput(output, parsed["force"] === true);
      const text = await readFile(path, "utf8").catch((error: unknown) => {
        throw new PareError("missing-file", "Cannot read the results", { where: path, found: messageOf(error) });
      });
      const training = trainingOf(text);
      if (training && /\.html$/i.test(output)) await writeWhole(output, trainingPage(training));
      else await writeReport(parseResults(text, path), output);
      return { json: { output }, text: `Wrote ${output}` };
    }),
  );
}

/** What `pare train --json` printed, if that is what the text is. */
function trainingOf(text: string): TrainingResults | undefined {
  try {
    const document: unknown = JSON.parse(text);
    return isTrainingResults(document) ? document : undefined;
  } catch {
    return undefined; // the reader of results says what is wrong
  }
}

/** Writes results in the form that the path's ending asks for, whole or not at all. */
export async function writeReport(results: Results, output: string): Promise<void> {
  const ending = output.slice(output.lastIndexOf(".") + 1).toLowerCase();
  const writer = WRITERS[ending];
  if (!writer)
    throw new PareError("bad-option", "Unknown kind of report", {
      where: output,
      found: `.${ending}`,
      expected: `one of ${Object.keys(WRITERS)
        .map((name) => `.${name}`)
        .join(", ")}`,
    });
  await writeWhole(output, writer(results));
}
