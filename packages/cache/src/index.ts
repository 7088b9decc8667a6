export { OrderedWrites, type WriteStep } from './ordered-writes.ts';
export { type CacheCounters, type SliceLoader, TableCache, type TableSlice } from './table-cache.ts';
