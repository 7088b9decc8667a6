import { assert, describe, it } from 'vitest';
import type { DeviceCapabilities } from './block-device.ts';
import { blockDeviceContract } from './contract.ts';
import { MemoryDevice } from './memory-device.ts';

const everything: DeviceCapabilities = {
  write: true,
  growable: true,
  resize: true,
  discard: true,
  writeZeroes: true,
  fua: true,
  extents: true,
  preferredBlockBytes: 1,
};

blockDeviceContract(
  { describe, it, assert },
  {
    name: 'MemoryDevice',
    create: (sizeBytes) => new MemoryDevice({ sizeBytes }),
    createFrom: (bytes) => MemoryDevice.fromBytes(bytes),
    capabilities: everything,
    returns: 'values',
  },
);
