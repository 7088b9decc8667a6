export { type CacheOptions, type CacheSizes, cacheSizes } from './cache-sizes.ts';
export { type CheckFinding, type CheckOptions, type CheckReport, checkImage } from './check.ts';
export { type CreateOptions, createImage } from './create.ts';
export { Qcow2Image } from './image.ts';
export type { ImageCacheCounters } from './image-core.ts';
export type { ImageInfo } from './info.ts';
export type { JournalStatus } from './journal-status.ts';
export { type OpenOptions, openImage, probeImage } from './open.ts';
export { defaultTuning, type JournalTuning } from './parts.ts';
