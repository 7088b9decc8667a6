/** Every system that the lab knows by name: the driver in its configurations, and the journal engine alone. */
import { StateError } from '@qcow2/spec';
import { backingTurns } from './backing-turns.ts';
import {
  type DriverConfiguration,
  type DriverMode,
  driverModes,
  exhaustiveConfigurations,
  randomConfigurations,
} from './driver-configurations.ts';
import { backingFileName, DriverSystem } from './driver-system.ts';
import { EngineSystem, engineConfigurations } from './engine-system.ts';
import type { SystemUnderTest } from './system-under-test.ts';

export type Mode = DriverMode | 'all';

export function isMode(name: string): name is Mode {
  return name === 'all' || Object.hasOwn(driverModes, name);
}

export interface LabSystem {
  readonly name: string;
  readonly mode: DriverMode;
  /** Time for its workloads, beside those of the others. */
  readonly weight: number;
  /** Small enough for all sequences of operations. */
  readonly exhaustive: boolean;
  /** Its disk takes long to look at: for sequences only. */
  readonly isLarge?: boolean;
  /** Its device holds a qcow2 image that qemu-img may judge too. */
  readonly isForQemu: boolean;
  readonly make: () => SystemUnderTest;
  /** Files that the image names, for tools that look for them. */
  readonly files: () => ReadonlyMap<string, Uint8Array>;
}

/** A disk beyond this. */
const largeBytes = 1024 * 1024;

export const labSystems: readonly LabSystem[] = [
  ...exhaustiveConfigurations.map((one) => driverEntry(one, true)),
  ...engineConfigurations.map(
    (one): LabSystem => ({
      name: one.name,
      mode: 'journal',
      weight: 1,
      exhaustive: true,
      isForQemu: false,
      make: () => new EngineSystem(one),
      files: () => new Map(),
    }),
  ),
  ...randomConfigurations.map((one) => driverEntry(one, false)),
];

/** @throws INVALID_ARGUMENT for a name that is none */
export function labSystem(name: string): LabSystem {
  const system = labSystems.find((one) => one.name === name);
  if (system === undefined) {
    throw new StateError('INVALID_ARGUMENT', 'no such system', { field: 'system', value: name });
  }
  return system;
}

function driverEntry(configuration: DriverConfiguration, exhaustive: boolean): LabSystem {
  const { name, mode, backingBytes, guestBytes } = configuration;
  const isLarge = guestBytes > largeBytes;
  // It calls a twin that is left alone an error (see `DriverSystem`), and looks for a data file beside the image.
  const { sharing, dataFile, encrypted, hasTurns } = configuration;
  // The noise of the lab has no key that QEMU could ask for.
  const isForQemu = sharing !== 'twins' && dataFile === undefined && encrypted !== true;
  const make = () => new DriverSystem(configuration);
  const files = () =>
    new Map([
      ...(backingBytes > 0 ? [[backingFileName, make().backingContent()] as const] : []),
      ...(hasTurns === true
        ? backingTurns.map(({ name = 'nothing', content }) => [name, content] as const)
        : []),
    ]);
  return { name, mode, weight: driverModes[mode].weight, exhaustive, isLarge, isForQemu, make, files };
}
