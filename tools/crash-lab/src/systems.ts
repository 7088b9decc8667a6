/** Every system that the lab knows by name: the driver in its configurations, and the journal engine alone. */
import { StateError } from '@qcow2/spec';
import {
  backingFileName,
  type DriverConfiguration,
  DriverSystem,
  exhaustiveConfigurations,
  randomConfigurations,
} from './driver-system.ts';
import { EngineSystem, engineConfigurations } from './engine-system.ts';
import type { SystemUnderTest } from './system-under-test.ts';

export type Mode = 'journal' | 'ordered' | 'all';

export interface LabSystem {
  readonly name: string;
  readonly mode: 'journal' | 'ordered';
  /** Small enough for all sequences of operations. */
  readonly exhaustive: boolean;
  /** Its device holds a qcow2 image, which qemu-img may judge too. */
  readonly isImage: boolean;
  readonly make: () => SystemUnderTest;
  /** Files that the image names, for tools that look for them. */
  readonly files: () => ReadonlyMap<string, Uint8Array>;
}

/** Those with a journal, which take longest, before those without: so that threads that take turns have equal shares. */
export const labSystems: readonly LabSystem[] = [
  ...exhaustiveConfigurations.map((one) => driverEntry(one, true)),
  ...engineConfigurations.map(
    (one): LabSystem => ({
      name: one.name,
      mode: 'journal',
      exhaustive: true,
      isImage: false,
      make: () => new EngineSystem(one),
      files: () => new Map(),
    }),
  ),
  ...randomConfigurations.map((one) => driverEntry(one, false)),
].sort((left, right) => left.mode.localeCompare(right.mode));

/** @throws INVALID_ARGUMENT for a name that is none */
export function labSystem(name: string): LabSystem {
  const system = labSystems.find((one) => one.name === name);
  if (system === undefined) {
    throw new StateError('INVALID_ARGUMENT', 'no such system', { field: 'system', value: name });
  }
  return system;
}

function driverEntry(configuration: DriverConfiguration, exhaustive: boolean): LabSystem {
  const { name, mode, backingBytes } = configuration;
  const make = () => new DriverSystem(configuration);
  const files = () => new Map(backingBytes > 0 ? [[backingFileName, make().backingContent()]] : []);
  return { name, mode, exhaustive, isImage: true, make, files };
}
