/** The machine and the versions behind a measurement. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { arch, availableParallelism, cpus, platform, release, totalmem } from "node:os";
import { VERSION } from "../base/version.ts";

export interface Machine {
  readonly cpu: string;
  /** Logical processors that this process may use. */
  readonly cores: number;
  readonly memoryBytes: number;
  /** Operating system, release and architecture. */
  readonly platform: string;
  /** Instruction sets that matter to the engine's kernels; empty where the system does not tell. */
  readonly features: readonly string[];
  readonly versions: Readonly<Record<string, string>>;
}

/** Flags of /proc/cpuinfo, and the names people know. */
const FEATURES: readonly (readonly [flag: string, name: string])[] = [
  ["avx2", "AVX2"],
  ["avx512f", "AVX-512"],
  ["avx512_vnni", "AVX-512 VNNI"],
  ["avx_vnni", "AVX-VNNI"],
  ["avx512_bf16", "AVX-512 BF16"],
  ["amx_int8", "AMX INT8"],
  ["asimddp", "NEON dot product"],
  ["i8mm", "I8MM"],
];

/** Describes this machine. `cpuinfo` is the text to read flags from; default: the system's. */
export function machineInfo(cpuinfo: string = readCpuinfo()): Machine {
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/) ?? []);
  return {
    cpu: cpus()[0]?.model.trim() || "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${platform()} ${release()} ${arch()}`,
    features: FEATURES.filter(([flag]) => flags.has(flag)).map(([, name]) => name),
    versions: { pare: VERSION, node: process.versions.node, onnxruntime: engineVersion() },
  };
}

/** True if int8 products have an instruction of their own here. */
export function hasInt8Instructions(machine: Machine = machineInfo()): boolean {
  return machine.features.some((name) => /VNNI|AMX|dot product|I8MM/.test(name));
}

/** Version of onnxruntime-node, or "absent". */
export function engineVersion(): string {
  try {
    const manifest = createRequire(import.meta.url)("onnxruntime-node/package.json") as { version: string };
    return manifest.version;
  } catch {
    return "absent";
  }
}

function readCpuinfo(): string {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return "";
  }
}
