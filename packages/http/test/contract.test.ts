/** Files on servers through the contract: a played server, and a real one of Node's. */
import type { DeviceCapabilities } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { afterAll, assert, describe, it } from 'vitest';
import { type HttpOptions, openHttp } from '../src/index.ts';
import { networkFailure, PlayedServer, status } from './support/played-server.ts';
import { RealServer } from './support/real-server.ts';

const capabilities: DeviceCapabilities = {
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
  fua: false,
  extents: false,
  preferredBlockBytes: 4096,
};
const small: HttpOptions = { blockBytes: 4096, cacheBytes: 8192, backOffMs: 0 };

function played(bytes: Uint8Array<ArrayBuffer>, options: HttpOptions = small) {
  return openHttp('http://played/disk', { fetch: new PlayedServer(bytes).fetch, ...options });
}

/** Every other request fails in one way or another. */
function onBadLine(bytes: Uint8Array<ArrayBuffer>) {
  const server = new PlayedServer(bytes);
  let count = 0;
  return openHttp('http://played/disk', {
    ...small,
    fetch: (input, init) => {
      count++;
      if (count % 2 === 1) server.mishaps.push(count % 4 === 1 ? networkFailure : status(503));
      return server.fetch(input, init);
    },
  });
}

const real = new RealServer();
afterAll(() => real.close());

const makers = {
  'a cache of two blocks': played,
  'a cache for all': (bytes: Uint8Array<ArrayBuffer>) => played(bytes, { ...small, cacheBytes: 2 ** 20 }),
  'a bad line': onBadLine,
  'a real server': async (bytes: Uint8Array<ArrayBuffer>) => openHttp(await real.serve(bytes), small),
} as const;

for (const [name, make] of Object.entries(makers)) {
  blockDeviceContract(
    { describe, it, assert },
    {
      name: `HttpDevice, ${name}`,
      create: (sizeBytes) => make(new Uint8Array(sizeBytes)),
      createFrom: (bytes) => make(Uint8Array.from(bytes)),
      capabilities,
    },
  );
}
