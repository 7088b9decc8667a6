/** On what it was measured: figures without it are worth nothing. */
import { readFileSync, statfsSync } from 'node:fs';
import { arch, cpus, loadavg, release, type } from 'node:os';
import type { Workspace } from './workspace.ts';

const fileSystems = new Map([
  [0xef53, 'ext4'],
  [0x58465342, 'xfs'],
  [0x9123683e, 'btrfs'],
  [0x01021994, 'tmpfs'],
  [0x794c7630, 'overlayfs'],
]);

export interface Machine {
  readonly date: string;
  readonly system: string;
  readonly processor: string;
  readonly cores: number;
  readonly fileSystem: string;
  readonly load: number;
  readonly node: string;
  readonly qemu: string;
  readonly fio: string;
}

export async function describeMachine(workspace: Workspace): Promise<Machine> {
  const { type: kind } = statfsSync(workspace.folder);
  const version = async (program: string): Promise<string> => {
    const text = await workspace.run(program, ['--version']).catch(() => 'absent');
    return /\d+\.\d+(\.\d+)?/.exec(text)?.[0] ?? 'absent';
  };
  return {
    date: new Date().toISOString().slice(0, 10),
    system: `${type()} ${release()} ${arch()}`,
    processor: processorName(),
    cores: cpus().length,
    fileSystem: fileSystems.get(kind) ?? `type 0x${kind.toString(16)}`,
    load: loadavg()[0] ?? 0,
    node: process.versions.node,
    qemu: await version('qemu-nbd'),
    fio: await version('fio'),
  };
}

export function machineText(machine: Machine): string {
  const { date, system, processor, cores, fileSystem, load, node, qemu, fio } = machine;
  const lines = [
    `${date}, ${system}, ${cores} cores (${processor}), ${fileSystem}, load ${load.toFixed(1)}; Node ${node}, qemu ${qemu}, fio ${fio}`,
  ];
  if (fileSystem === 'tmpfs') lines.push('NOTE: on tmpfs a flush costs nothing; choose another --folder.');
  if (load > cores / 2) lines.push('NOTE: the machine is not idle; look at the spread.');
  return lines.join('\n');
}

function processorName(): string {
  const model = cpus()[0]?.model.trim() ?? '';
  if (model !== '' && model !== 'unknown') return model;
  try {
    const text = readFileSync('/proc/cpuinfo', 'utf8');
    return /model name\s*:\s*(.+)/.exec(text)?.[1] ?? 'unknown processor';
  } catch {
    return 'unknown processor';
  }
}
