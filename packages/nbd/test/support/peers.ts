/**
 * The real clients that interop tests talk to. Where one is missing the suite says so loudly and does not
 * run; under CI=true that is a failure.
 */
import { execFileSync, spawn } from 'node:child_process';
import { describe, expect, test } from 'vitest';

/** Where Debian keeps each of them. */
const packages = {
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  libnbd: 'python3-libnbd',
  'qemu-img': 'qemu-utils',
  fio: 'fio',
  'qemu-nbd': 'qemu-utils',
  nbdkit: 'nbdkit',
} as const;
export type Peer = keyof typeof packages;

/** A Python that has libnbd; the first one in the path may be another than the system's. */
export const python =
  ['python3', '/usr/bin/python3'].find((each) => works(each, ['-c', 'import nbd'])) ?? 'python3';

function works(command: string, args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

function present(peer: Peer): boolean {
  return peer === 'libnbd' ? works(python, ['-c', 'import nbd']) : works(peer, ['--version']);
}

/** `describe`, if the peers are there. */
export function withPeers(title: string, peers: readonly Peer[], suite: () => void): void {
  const missing = peers.filter((peer) => !present(peer));
  if (missing.length === 0) {
    describe(title, suite);
    return;
  }
  const wanted = missing.map((peer) => `${peer} (Debian: ${packages[peer]})`).join(', ');
  console.error(`\n*** INTEROP NOT RUN: ${title}: missing ${wanted} ***\n`);
  test(`${title}: not run, missing ${wanted}`, () => {
    expect(process.env.CI, 'under CI=true every peer must be there').not.toBe('true');
  });
}

/** Run a command to its end; its standard output. Fails the test where the command fails. */
export function runPeer(command: string, args: readonly string[], input = ''): Promise<string> {
  const child = spawn(command, args);
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => {
      try {
        expect({ command, args, status, signal, errors }).toMatchObject({ status: 0 });
        resolve(output);
      } catch (error) {
        reject(error);
      }
    });
  });
}
