export type {
  BlockDevice,
  ByteOrigin,
  DeviceCapabilities,
  Extent,
  ExtentKind,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
export {
  type ActiveFault,
  type Fault,
  FaultDevice,
  type FaultDeviceOptions,
  type FaultErrno,
  type FaultOperation,
  type FaultRequest,
  type FaultRule,
} from './fault-device.ts';
export {
  type FaultScheduler,
  ImmediateScheduler,
  ManualScheduler,
  ShuffledScheduler,
} from './fault-scheduler.ts';
export { MemoryDevice, type MemoryDeviceOptions } from './memory-device.ts';
export { Mutex } from './mutex.ts';
export { OverlayDevice, type OverlayDeviceOptions } from './overlay-device.ts';
export { PatchMap, type PatchRun } from './patch-map.ts';
export { ReadOnlyDevice } from './read-only-device.ts';
export {
  applyRecorded,
  type DeviceCounters,
  type RecordedDiscard,
  type RecordedFlush,
  type RecordedOperation,
  type RecordedResize,
  type RecordedWrite,
  type RecordedWriteZeroes,
  RecordingDevice,
} from './recording-device.ts';
export { checkRange, checkSize, pushExtent, readPadded } from './request.ts';
export { isPromise, run, startAll, type Task, wait, waitAll } from './task.ts';
export { readOnlyCapabilities, UnwritableDevice } from './unwritable-device.ts';
