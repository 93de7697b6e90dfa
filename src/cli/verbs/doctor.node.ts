/** `pare doctor`: what is installed here, and what works. */
import type { Command } from "commander";
import { machineInfo } from "../../evaluate/machine.node.ts";
import { loadKernels } from "../../kernels/kernels.ts";
import { formatBytes } from "../../report/format.ts";
import { openSession } from "../../run/open-session.node.ts";
import { listProviders } from "../../run/providers.node.ts";
import { productsSaturate } from "../../run/saturation.ts";
import { formatTable } from "../format.ts";
import { addCommonOptions, commonOptions } from "../options.node.ts";
import { runVerb } from "../run.node.ts";

export function addDoctor(program: Command): void {
  const verb = program
    .command("doctor")
    .summary("what is installed here, and what works")
    .description("Tries every execution provider and the SIMD kernels, and tells the machine and versions.");
  addCommonOptions(verb).action((parsed: Record<string, unknown>) =>
    runVerb(commonOptions(parsed).json, async () => {
      const machine = machineInfo();
      const providers = await listProviders();
      const saturates = await productsSaturate(openSession);
      const kernels = await loadKernels().then(
        () => "work",
        (error: unknown) => String(error),
      );
      const rows = [
        ...Object.entries(machine.versions),
        ["processor", `${machine.cpu}, ${machine.cores} cores`],
        ["features", machine.features.join(", ") || "none known"],
        [
          "8-bit products",
          saturates ? "saturate: quantize with 7-bit weights (reduce-range, the default here)" : "exact",
        ],
        ["memory", formatBytes(machine.memoryBytes)],
        ["system", machine.platform],
        ["SIMD kernels", kernels],
        ...providers.map(({ provider, works, why }) => [`provider ${provider}`, works ? "works" : `absent: ${why}`]),
      ];
      return { json: { machine, kernels, saturates, providers }, text: formatTable(rows) };
    }),
  );
}
