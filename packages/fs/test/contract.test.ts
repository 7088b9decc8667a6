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
import {
  type AllocationChange,
  FileDevice,
  nativeSupport,
  type OpenFileOptions,
  openFile,
} from '../src/index.ts';
import { LoggedCalls, LoggedNative } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const native = nativeSupport().calls !== undefined;
const writable: DeviceCapabilities = {
  write: true,
  growable: true,
  resize: true,
  discard: native,
  writeZeroes: native,
  fua: false,
  extents: native,
  preferredBlockBytes: 4096,
};
/** What a file can do where the system has no calls for holes. */
const plain: DeviceCapabilities = { ...writable, discard: false, writeZeroes: false, extents: false };
const readOnly: DeviceCapabilities = {
  ...writable,
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
};

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

function onFileSystemWithout(...changes: AllocationChange[]): LoggedCalls {
  const calls = new LoggedCalls();
  const lacking = new LoggedNative();
  for (const change of changes) lacking.lacking.add(change);
  calls.native = lacking;
  return calls;
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
  subject('reads from the page cache on this thread, others in the pool', { io: 'cached' }),
  subject(
    'without native calls',
    { flush: 'sync', calls: new LoggedCalls() },
    { capabilities: plain, returns: 'values' },
  ),
  subject('on a file system that makes no zeroed ranges', { calls: onFileSystemWithout('zero-range') }),
  subject(
    'synchronous in pieces',
    { flush: 'sync', calls: inPieces() },
    { operations: 100, capabilities: plain },
  ),
  subject(
    'asynchronous in pieces',
    { io: 'async', calls: inPieces() },
    { operations: 100, sizeBytes: 70_000, capabilities: plain },
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
    capabilities: { ...writable, discard: false, writeZeroes: true, fua: true, extents: true },
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
