/** An image is a block device: the contract, on every way to log. */
import { type BlockDevice, type DeviceCapabilities, FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { assert, describe, it } from 'vitest';
import { createImage, openImage } from '../src/index.ts';
import { toyKinds } from './support/toy-encryption.ts';

const capabilities: DeviceCapabilities = {
  write: true,
  growable: false,
  resize: false,
  discard: true,
  writeZeroes: true,
  fua: false,
  extents: true,
  preferredBlockBytes: 4096,
};

async function made(
  sizeBytes: number,
  journal: { sizeBytes: number } | false,
  below: (memory: MemoryDevice) => BlockDevice = (memory) => memory,
): Promise<BlockDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes, clusterBytes: 4096, journal });
  return await openImage(below(memory));
}

async function besideData(sizeBytes: number, raw: boolean, journal: { sizeBytes: number } | false) {
  const memory = new MemoryDevice();
  const device = new MemoryDevice();
  const dataFile = { device, name: 'data', raw };
  await createImage(memory, { sizeBytes, clusterBytes: 4096, journal, dataFile });
  return await openImage(memory, { dataFile: device });
}

const runner = { describe, it, assert };
const ring = { sizeBytes: 128 * 1024 };

blockDeviceContract(runner, {
  name: 'Qcow2Image with a journal',
  create: (sizeBytes) => made(sizeBytes, ring),
  capabilities,
});
blockDeviceContract(runner, {
  name: 'Qcow2Image without a journal',
  create: (sizeBytes) => made(sizeBytes, false),
  capabilities,
});
blockDeviceContract(runner, {
  name: 'Qcow2Image with a journal, over a device that is never done at once',
  create: (sizeBytes) => made(sizeBytes, ring, (memory) => new FaultDevice(memory, { mode: 'async' })),
  capabilities,
});
blockDeviceContract(runner, {
  name: 'Qcow2Image with an external data file and a journal',
  create: (sizeBytes) => besideData(sizeBytes, false, ring),
  capabilities,
});
blockDeviceContract(runner, {
  name: 'Qcow2Image with a raw external data file',
  create: (sizeBytes) => besideData(sizeBytes, true, false),
  capabilities,
});

async function encrypted(kind: keyof typeof toyKinds, sizeBytes: number): Promise<BlockDevice> {
  const memory = new MemoryDevice();
  const { encryption, create } = toyKinds[kind]();
  await create(memory, { sizeBytes, clusterBytes: 4096, journal: ring });
  return await openImage(memory, { encryption });
}

blockDeviceContract(runner, {
  name: 'Qcow2Image, encrypted by host offsets',
  create: (sizeBytes) => encrypted('luks', sizeBytes),
  capabilities,
});
blockDeviceContract(runner, {
  name: 'Qcow2Image, encrypted by guest offsets',
  create: (sizeBytes) => encrypted('aes', sizeBytes),
  capabilities,
});
