/** Blobs, and played files of the origin private file system, through the contract. */
import type { DeviceCapabilities } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { assert, describe, it } from 'vitest';
import { BlobDevice, openOpfs } from '../src/index.ts';
import { PlayedFile } from './support/played-opfs.ts';

const readOnly: DeviceCapabilities = {
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
  fua: false,
  extents: false,
  preferredBlockBytes: 4096,
};
const writable: DeviceCapabilities = { ...readOnly, write: true, growable: true, resize: true };
const runner = { describe, it, assert };

blockDeviceContract(runner, {
  name: 'BlobDevice',
  create: (sizeBytes) => new BlobDevice(new Blob([new Uint8Array(sizeBytes)])),
  createFrom: (bytes) => new BlobDevice(new Blob([bytes.slice(0, 1000), bytes.slice(1000)])),
  capabilities: readOnly,
});

function inPieces(file: PlayedFile): PlayedFile {
  file.mostBytes = 1000;
  return file;
}

for (const [name, played] of [
  ['whole calls', (file: PlayedFile) => file],
  ['in pieces', inPieces],
] as const) {
  blockDeviceContract(runner, {
    name: `OpfsDevice, ${name}`,
    create: (sizeBytes) => openOpfs(played(new PlayedFile(new Uint8Array(sizeBytes)))),
    createFrom: (bytes) => openOpfs(played(new PlayedFile(Uint8Array.from(bytes)))),
    capabilities: writable,
    returns: 'values',
    operations: 100,
  });
}

blockDeviceContract(runner, {
  name: 'OpfsDevice, read-only',
  create: (sizeBytes) => openOpfs(new PlayedFile(new Uint8Array(sizeBytes)), { readOnly: true }),
  createFrom: (bytes) => openOpfs(new PlayedFile(Uint8Array.from(bytes)), { readOnly: true }),
  capabilities: readOnly,
  returns: 'values',
});
