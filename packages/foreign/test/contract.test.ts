/** Images of every foreign format through the contract of all devices. */
import type { DeviceCapabilities } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { assert, describe, it } from 'vitest';
import { type ForeignFormat, openForeign } from '../src/index.ts';
import { fixedVpcOf, memoryFile, vdiOf, vpcOf } from './support/built-images.ts';
import { vhdxOf } from './support/built-vhdx.ts';
import { sparseVmdkOf } from './support/built-vmdk.ts';

const capabilities: DeviceCapabilities = {
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
  fua: false,
  extents: true,
  preferredBlockBytes: 4096,
};

const kinds: readonly [string, ForeignFormat, (disk: Uint8Array) => Uint8Array][] = [
  ['VDI', 'vdi', vdiOf],
  ['VDI, fixed', 'vdi', (disk) => vdiOf(disk, { isFixed: true })],
  ['VHD, dynamic', 'vpc', vpcOf],
  ['VHD, fixed', 'vpc', fixedVpcOf],
  ['VHDX', 'vhdx', vhdxOf],
  ['VMDK, sparse', 'vmdk', sparseVmdkOf],
  ['VMDK, stream-optimized', 'vmdk', (disk) => sparseVmdkOf(disk, { isStream: true })],
];

for (const [name, format, imageOf] of kinds) {
  blockDeviceContract(
    { describe, it, assert },
    {
      name,
      create: (sizeBytes) => openForeign(memoryFile(imageOf(new Uint8Array(sizeBytes))), format),
      createFrom: (bytes) => openForeign(memoryFile(imageOf(bytes)), format),
      capabilities,
      sizeMultipleBytes: 512,
      returns: 'values',
    },
  );
}
