export { type LazyFlush, LazyWrites, type WriteMark } from './lazy-writes.ts';
export { OrderedWrites, type WriteStep } from './ordered-writes.ts';
export {
  type CacheCounters,
  type SliceLoader,
  TableCache,
  type TableCacheOptions,
  type TableSlice,
} from './table-cache.ts';
