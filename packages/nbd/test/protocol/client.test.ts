/** The client and our own server: the contract of devices through both, and what the client sends. */
import { type DeviceCapabilities, MemoryDevice } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { afterAll, assert, describe, expect, it, test } from 'vitest';
import { connectNbd, createNbdServer, listNbdExports, type NbdServer } from '../../src/index.ts';
import { patterned, serve } from '../support/fixture.ts';

const fixed = { capabilities: { growable: false } } as const;
const capabilities: DeviceCapabilities = {
  write: true,
  growable: false,
  resize: false,
  discard: true,
  writeZeroes: true,
  fua: true,
  extents: true,
  preferredBlockBytes: 4096,
};

const servers: NbdServer[] = [];
afterAll(async () => {
  for (const server of servers) await server.close();
});

async function served(device: MemoryDevice, minimumBlockBytes: number, readOnly = false) {
  const server = createNbdServer({
    exports: [{ name: '', device, holesReadAsZeros: true, readOnly, minimumBlockBytes }],
  });
  servers.push(server);
  const address = await server.listen({ host: '127.0.0.1', port: 0 });
  return await connectNbd({ address });
}

for (const minimumBlockBytes of [1, 4096]) {
  const preferredBlockBytes = 4096;
  blockDeviceContract(
    { describe, it, assert },
    {
      name: `NbdDevice, blocks of ${minimumBlockBytes}`,
      create: (sizeBytes) =>
        served(
          new MemoryDevice({ sizeBytes, capabilities: { growable: false, preferredBlockBytes } }),
          minimumBlockBytes,
        ),
      capabilities: { ...capabilities, preferredBlockBytes },
      returns: 'promises',
      sizeMultipleBytes: minimumBlockBytes,
      operations: 150,
      seeds: [1, 2],
    },
  );
}

blockDeviceContract(
  { describe, it, assert },
  {
    name: 'NbdDevice, read-only',
    create: (sizeBytes) => served(new MemoryDevice({ sizeBytes, ...fixed }), 1, true),
    createFrom: (bytes) => {
      const device = new MemoryDevice({ sizeBytes: bytes.length, ...fixed });
      device.write(0, bytes);
      return served(device, 1, true);
    },
    capabilities: {
      ...capabilities,
      write: false,
      discard: false,
      writeZeroes: false,
      fua: false,
      preferredBlockBytes: 4096,
    },
  },
);

test('what is larger than a request is split, and more requests than may be on their way wait in line', async () => {
  const sizeBytes = 80 * 1024 * 1024;
  const device = new MemoryDevice({ sizeBytes, ...fixed });
  const { address, server } = await serve({ exports: [{ name: 'x', device }] });
  const client = await connectNbd({ address, exportName: 'x' });
  const large = patterned(70 * 1024 * 1024, 1);
  await client.write(123, large);
  const back = new Uint8Array(large.length);
  await client.read(123, back);
  expect(large.equals(back)).toBe(true);
  const slots = Array.from({ length: 1000 }, (_, index) => patterned(500, index));
  await Promise.all(slots.map((bytes, index) => client.write(index * 512, bytes)));
  const read = slots.map(() => new Uint8Array(500));
  await Promise.all(read.map((into, index) => client.read(index * 512, into)));
  expect(read.map((bytes) => Buffer.from(bytes))).toEqual(slots);
  await client.flush();
  await client.close();
  expect(server.counters()).toMatchObject({
    failures: 0,
    requests: { READ: 1003, WRITE: 1003, FLUSH: 1, DISC: 1 },
  });
});

test('durable writes are asked for as such, and zeros that may not be unmapped', async () => {
  const device = new MemoryDevice({ sizeBytes: 65536, ...fixed });
  const { address, server } = await serve({ exports: [{ name: '', device, holesReadAsZeros: true }] });
  const client = await connectNbd({ address });
  await client.write(0, patterned(65536, 1), { fua: true });
  await client.writeZeroes(0, 4096, { fua: true });
  await client.writeZeroes(4096, 4096, { mayUnmap: true });
  await client.discard(8192, 4096);
  const kinds = (await client.extents(0, 65536)).map(({ kind, lengthBytes }) => [kind, lengthBytes]);
  const below = device.extents(0, 65536).map(({ kind, lengthBytes }) => [kind, lengthBytes]);
  expect(kinds).toEqual(below);
  await client.close();
  expect(server.counters().requests).toMatchObject({ WRITE: 1, WRITE_ZEROES: 2, TRIM: 1, FLUSH: 0 });
});

test('lists the exports of a server', async () => {
  const device = new MemoryDevice({ sizeBytes: 512, ...fixed });
  const { address } = await serve({
    exports: [
      { name: 'a', device, description: 'the first' },
      { name: 'größe', device },
    ],
  });
  expect(await listNbdExports({ address })).toEqual([
    { name: 'a', description: 'the first' },
    { name: 'größe', description: '' },
  ]);
  const [first] = await listNbdExports({ address }, { details: true });
  const flags = 1 | 4 | 8 | 32 | 64 | 128 | 256 | 1024 | 2048;
  expect(first?.details).toMatchObject({ sizeBytes: 512, flags, contexts: ['base:allocation'] });
  expect(first?.details?.blockSizes).toMatchObject({ minimum: 1, maximum: 32 * 1024 * 1024 });
  await expect(connectNbd({ address, exportName: 'c' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('a signal ends opening, and what waits', async () => {
  const { address } = await serve({
    exports: [{ name: '', device: new MemoryDevice({ sizeBytes: 512, ...fixed }) }],
  });
  await expect(connectNbd({ address }, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  const controller = new AbortController();
  const client = await connectNbd({ address }, { signal: controller.signal });
  const reading = client.read(0, new Uint8Array(512));
  controller.abort();
  await expect(reading).rejects.toMatchObject({ code: 'ABORTED' });
  await expect(client.read(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'ABORTED' });
  await client.close();
});
