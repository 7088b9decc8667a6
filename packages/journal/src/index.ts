export { type AreaLocation, formatArea, type Random, readSlots, ringOf } from './area.ts';
export type { ChainStop } from './chain.ts';
export type { JournalClient } from './client.ts';
export type { JournalCounters, JournalUse } from './counters.ts';
export {
  type DraftArea,
  formatDraftArea,
  readDraftArea,
  writeDraftHeader,
} from './draft-2013/area.ts';
export {
  type ChainEnds,
  type FoundTransaction,
  refuseTransaction,
  walkDraftChain,
} from './draft-2013/chain.ts';
export type { DraftClient } from './draft-2013/client.ts';
export type { DraftCounters, DraftUse } from './draft-2013/counters.ts';
export { DraftEngine, type DraftEngineOptions, minWritableRingBlocks } from './draft-2013/engine.ts';
export { lastSynced } from './draft-2013/last-synced.ts';
export { type RecoveredDraftLog, recoverDraftLog, replayDraftLog } from './draft-2013/recovery.ts';
export { ReplayView } from './draft-2013/replay-view.ts';
export type { PlacedTransaction } from './draft-2013/space.ts';
export { type EngineOptions, JournalEngine } from './engine.ts';
export type { RecoveredIntent } from './gathered-intents.ts';
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
  BackingFill,
  GuestRange,
  GuestWrite,
  HostCopy,
  HostRange,
  HostWrite,
  LoggedIntent,
  Microtransaction,
} from './microtransaction.ts';
export {
  type FillSink,
  type GuestSink,
  type LiveRecord,
  type RecoveredLog,
  reassertLog,
  recoverLog,
} from './recovery.ts';
