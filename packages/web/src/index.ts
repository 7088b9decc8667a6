export { BlobDevice } from './blob-device.ts';
export { type OpfsFile, type OpfsOptions, openOpfs, type SyncAccess } from './open-opfs.ts';
export { OpfsDevice } from './opfs-device.ts';
