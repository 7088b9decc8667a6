export { FileDevice } from './file-device.ts';
export { type FlushMode, FlushPolicy } from './flush-policy.ts';
export { type OpenFileOptions, openFile, syncDirectory } from './open-file.ts';
export { type FileCalls, type FileKind, type FileStatus, nodeCalls } from './system-calls.ts';
