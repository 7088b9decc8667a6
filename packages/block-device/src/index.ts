export type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  ExtentKind,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
export { Mutex } from './mutex.ts';
export { isPromise, run, type Task, wait, waitAll } from './task.ts';
