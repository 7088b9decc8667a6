/**
 * The server's own cost: requests per second of fio's nbd engine against a device in memory, where the
 * device is next to nothing. Compare runs of one machine only.
 *
 *   node --conditions=qcow2-source packages/nbd/bench/null-device.ts [seconds]
 *
 * With --cpu-prof the profile shows where the time of the server goes.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MemoryDevice } from '@qcow2/block-device';
import { createNbdServer, nbdUri } from '../src/index.ts';

const seconds = Number(process.argv[2] ?? 2);
const sizeBytes = 64 * 1024 * 1024;

interface Job {
  readonly rw: 'randread' | 'randwrite';
  readonly blockBytes: number;
  readonly depth: number;
  readonly extra?: readonly string[];
}

const jobs: readonly Job[] = [
  { rw: 'randread', blockBytes: 4096, depth: 1 },
  { rw: 'randread', blockBytes: 4096, depth: 32 },
  { rw: 'randwrite', blockBytes: 4096, depth: 1 },
  { rw: 'randwrite', blockBytes: 4096, depth: 32 },
  { rw: 'randwrite', blockBytes: 4096, depth: 1, extra: ['--fsync=1'] },
  { rw: 'randread', blockBytes: 65536, depth: 32 },
  { rw: 'randwrite', blockBytes: 65536, depth: 32 },
  { rw: 'randread', blockBytes: 1048576, depth: 8 },
  { rw: 'randwrite', blockBytes: 1048576, depth: 8 },
];

function fio(uri: string, job: Job): Promise<{ iops: number; meanUs: number }> {
  const child = spawn(
    'fio',
    [
      '--name=null-device',
      '--ioengine=nbd',
      `--uri=${uri}`,
      `--rw=${job.rw}`,
      `--bs=${job.blockBytes}`,
      `--iodepth=${job.depth}`,
      `--size=${sizeBytes}`,
      `--runtime=${seconds}`,
      '--time_based',
      '--randseed=1',
      '--output-format=json',
      ...(job.extra ?? []),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  return new Promise((resolve) => {
    child.once('close', () => {
      const side = JSON.parse(output.slice(output.indexOf('{'))).jobs[0][
        job.rw === 'randread' ? 'read' : 'write'
      ];
      resolve({ iops: side.iops, meanUs: side.clat_ns.mean / 1000 });
    });
  });
}

const folder = mkdtempSync(join(tmpdir(), 'nbd-bench-'));
const device = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
const filler = new Uint8Array(1024 * 1024).fill(0x5a);
for (let offset = 0; offset < sizeBytes; offset += filler.length) device.write(offset, filler);
const server = createNbdServer({ exports: [{ name: '', device }] });
const uri = nbdUri(await server.listen({ path: join(folder, 'socket') }));

for (const job of jobs) {
  const cpuBefore = process.cpuUsage();
  const { iops, meanUs } = await fio(uri, job);
  const cpu = process.cpuUsage(cpuBefore);
  const cpuUs = (cpu.user + cpu.system) / (iops * seconds);
  const name = `${job.rw} ${job.blockBytes / 1024} KiB, depth ${job.depth} ${(job.extra ?? []).join(' ')}`;
  console.log(
    `${name.padEnd(42)} ${Math.round(iops).toString().padStart(8)}/s  mean ${meanUs.toFixed(0).padStart(5)} us  cpu ${cpuUs.toFixed(1).padStart(6)} us each`,
  );
}
await server.close();
rmSync(folder, { recursive: true });
