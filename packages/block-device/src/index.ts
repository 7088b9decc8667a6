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
