/** Files through the contract, on every path: this thread or the pool, whole calls or pieces. */
import { rmSync, writeFileSync } from 'node:fs';
import {
  type DeviceCapabilities,
  FaultDevice,
  OverlayDevice,
  ReadOnlyDevice,
  RecordingDevice,
} from '@qcow2/block-device';
import { blockDeviceContract, type ContractSubject } from '@qcow2/block-device/contract';
import { assert, describe, it } from 'vitest';
import { FileDevice, type OpenFileOptions, openFile } from '../src/index.ts';
import { LoggedCalls } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const writable: DeviceCapabilities = {
  write: true,
  growable: true,
  resize: true,
  discard: false,
  writeZeroes: false,
  fua: false,
  extents: false,
  preferredBlockBytes: 4096,
};
const readOnly: DeviceCapabilities = { ...writable, write: false, growable: false, resize: false };

function created(sizeBytes: number, options: OpenFileOptions): FileDevice {
  const device = openFile(path(), { create: 'exclusive', ...options });
  device.resize(sizeBytes);
  return device;
}

function createdFrom(bytes: Uint8Array, options: OpenFileOptions): FileDevice {
  const at = path();
  writeFileSync(at, bytes);
  return openFile(at, options);
}

function subject(
  name: string,
  options: OpenFileOptions,
  rest: Partial<ContractSubject> = {},
): ContractSubject {
  return {
    name: `FileDevice, ${name}`,
    create: (sizeBytes) => created(sizeBytes, options),
    createFrom: (bytes) => createdFrom(bytes, options),
    dispose: (device) => {
      if (device instanceof FileDevice) rmSync(device.path);
    },
    capabilities: writable,
    ...rest,
  };
}

/** No call does more than 1024 bytes, so that every request is made of pieces. */
function inPieces(): LoggedCalls {
  const calls = new LoggedCalls();
  calls.mostBytes = 1024;
  return calls;
}

const subjects: ContractSubject[] = [
  subject('synchronous', { flush: 'sync' }, { returns: 'values' }),
  subject('adaptive flush', {}),
  subject('flush in the thread pool', { flush: 'thread' }),
  subject('asynchronous', { io: 'async' }),
  subject('asynchronous, flush on this thread', { io: 'async', flush: 'sync' }),
  subject('synchronous in pieces', { flush: 'sync', calls: inPieces() }, { operations: 100 }),
  subject(
    'asynchronous in pieces',
    { io: 'async', calls: inPieces() },
    { operations: 100, sizeBytes: 70_000 },
  ),
  subject(
    'read-only',
    { readOnly: true },
    {
      create: (sizeBytes) => createdFrom(new Uint8Array(sizeBytes), { readOnly: true }),
      capabilities: readOnly,
      returns: 'values',
    },
  ),
  {
    name: 'OverlayDevice over an asynchronous file',
    create: (sizeBytes) => new OverlayDevice(created(sizeBytes, { io: 'async' })),
    createFrom: (bytes) => new OverlayDevice(createdFrom(bytes, { io: 'async', readOnly: true })),
    capabilities: { ...writable, writeZeroes: true, fua: true, extents: true },
  },
  {
    name: 'RecordingDevice over an asynchronous file',
    create: (sizeBytes) => new RecordingDevice(created(sizeBytes, { io: 'async' })),
    capabilities: writable,
  },
  {
    name: 'FaultDevice in mode async over a file',
    create: (sizeBytes) => new FaultDevice(created(sizeBytes, { flush: 'sync' }), { mode: 'async' }),
    capabilities: writable,
    returns: 'promises',
  },
  {
    name: 'ReadOnlyDevice over a file',
    create: (sizeBytes) => new ReadOnlyDevice(created(sizeBytes, {})),
    createFrom: (bytes) => new ReadOnlyDevice(createdFrom(bytes, {})),
    capabilities: readOnly,
    returns: 'values',
  },
];

for (const each of subjects) blockDeviceContract({ describe, it, assert }, each);
