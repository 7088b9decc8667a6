/** A server on a unix socket in a folder of its own, gone after the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { createNbdServer, type NbdAddress, type NbdServer, type NbdServerOptions } from '../../src/index.ts';

export interface Fixture {
  readonly server: NbdServer;
  readonly address: NbdAddress & { readonly path: string };
  readonly folder: string;
}

/** Start a server; it is closed when the test finishes, the devices of `exports` are the test's. */
export async function serve(options: NbdServerOptions): Promise<Fixture> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-'));
  const server = createNbdServer({ graceMs: 200, ...options });
  const address = { path: join(folder, 'socket') };
  await server.listen(address);
  onTestFinished(async () => {
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { server, address, folder };
}

/** Bytes that differ from place to place and from seed to seed. */
export function patterned(lengthBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < lengthBytes; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}
