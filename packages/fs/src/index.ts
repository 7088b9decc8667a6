export { FileDevice, type IoMode } from './file-device.ts';
export { type FlushMode, FlushPolicy } from './flush-policy.ts';
export { ImageHandle, type ImageHandleOptions, type ImageStats } from './image-handle.ts';
export { type ImageUse, imageInUse } from './image-lock.ts';
export {
  type AllocationChange,
  type FileLockKind,
  type NativeCalls,
  type NativeSupport,
  nativeSupport,
} from './native-calls.ts';
export { type OpenFileOptions, openFile, syncDirectory } from './open-file.ts';
export { type FileCalls, type FileKind, type FileStatus, nodeCalls } from './system-calls.ts';
