export { type AreaLocation, formatArea, type Random, readSlots, ringOf } from './area.ts';
export type { ChainStop } from './chain.ts';
export type { JournalClient } from './client.ts';
export type { JournalCounters, JournalUse } from './counters.ts';
export { type EngineOptions, JournalEngine } from './engine.ts';
export {
  type InspectedEnd,
  type InspectedLog,
  type InspectedRecord,
  type InspectedSlot,
  type InspectedSlots,
  inspectLog,
  type LogVisitor,
} from './inspection.ts';
export type {
  GuestRange,
  GuestWrite,
  HostRange,
  HostWrite,
  Microtransaction,
} from './microtransaction.ts';
export { type GuestSink, type LiveRecord, type RecoveredLog, reassertLog, recoverLog } from './recovery.ts';
