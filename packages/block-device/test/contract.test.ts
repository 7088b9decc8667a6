/** Every device of this package, over memory, through the same suite; wrappers also over an asynchronous one. */
import { assert, describe, it } from 'vitest';
import type { BlockDevice, DeviceCapabilities } from '../src/block-device.ts';
import { blockDeviceContract, type ContractSubject } from '../src/contract.ts';
import {
  FaultDevice,
  MemoryDevice,
  OverlayDevice,
  ReadOnlyDevice,
  RecordingDevice,
  ShuffledScheduler,
} from '../src/index.ts';

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
const fixed: DeviceCapabilities = { ...everything, growable: false, resize: false };
const overlaid: DeviceCapabilities = { ...everything, discard: false, preferredBlockBytes: 4096 };
const readOnly: DeviceCapabilities = {
  ...fixed,
  write: false,
  discard: false,
  writeZeroes: false,
  fua: false,
};

/** Numbers devices, so that each gets an interleaving of its own, and the same one in every run. */
let made = 0;
const shuffled = (below: BlockDevice) =>
  new FaultDevice(below, { mode: 'async', scheduler: new ShuffledScheduler(made++) });

function subject(
  name: string,
  wrap: (below: BlockDevice) => BlockDevice,
  rest: Omit<ContractSubject, 'name' | 'create' | 'createFrom'>,
  below: Partial<DeviceCapabilities> = {},
): ContractSubject {
  return {
    name,
    create: (sizeBytes) => wrap(new MemoryDevice({ sizeBytes, capabilities: below })),
    createFrom: (bytes) => wrap(MemoryDevice.fromBytes(bytes, { capabilities: below })),
    ...rest,
  };
}

const same = (below: BlockDevice) => below;
const subjects: ContractSubject[] = [
  subject('MemoryDevice', same, { capabilities: everything, returns: 'values' }),
  subject('MemoryDevice of fixed size', same, { capabilities: fixed, returns: 'values' }, fixed),
  subject(
    'MemoryDevice without discard and extents',
    same,
    {
      capabilities: { ...everything, discard: false, extents: false },
      returns: 'values',
    },
    { discard: false, extents: false },
  ),
  subject('RecordingDevice', (below) => new RecordingDevice(below), {
    capabilities: everything,
    returns: 'values',
  }),
  subject('RecordingDevice, asynchronous below', (below) => new RecordingDevice(shuffled(below)), {
    capabilities: everything,
    returns: 'promises',
  }),
  subject('ReadOnlyDevice', (below) => new ReadOnlyDevice(below), {
    capabilities: readOnly,
    returns: 'values',
  }),
  subject('OverlayDevice', (below) => new OverlayDevice(below), {
    capabilities: overlaid,
    returns: 'values',
  }),
  subject(
    'OverlayDevice of fixed size, small pages',
    (below) => new OverlayDevice(below, { growable: false, pageBytes: 1000 }),
    {
      capabilities: { ...overlaid, growable: false, resize: false, preferredBlockBytes: 1000 },
      returns: 'values',
    },
  ),
  subject('OverlayDevice, asynchronous below', (below) => new OverlayDevice(shuffled(below)), {
    capabilities: overlaid,
  }),
  subject('FaultDevice without rules', (below) => new FaultDevice(below), {
    capabilities: everything,
    returns: 'values',
  }),
  subject('FaultDevice, async', (below) => new FaultDevice(below, { mode: 'async' }), {
    capabilities: everything,
    returns: 'promises',
  }),
  subject('FaultDevice, async and shuffled', shuffled, { capabilities: everything, returns: 'promises' }),
];

for (const each of subjects) blockDeviceContract({ describe, it, assert }, each);
