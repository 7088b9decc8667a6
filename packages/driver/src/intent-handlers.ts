/**
 * What recovery does with an operation that was under way, by the kind of its intent (JRN-INTENT-…).
 *
 * The journal's engine knows intents as numbers and bytes; here they have a meaning. A kind that stands here is
 * decoded, and held against the image, before anything is believed: for readers too, who show the image as its kind
 * says that it is to be shown while the operation is open.
 */
import type { Task } from '@qcow2/block-device';
import {
  type DetachedTableIntent,
  decodeDetachedTableIntent,
  decodeGrowIntent,
  type GrowIntent,
} from '@qcow2/codec/journal/v1';
import type { RecoveredIntent } from '@qcow2/journal';
import { FormatError, InvariantError, journalIntentKinds } from '@qcow2/spec';
import { DetachedTable } from './detached-table.ts';
import { GrowOperation } from './grow-operation.ts';
import type { ImageParts } from './parts.ts';

export interface IntentHandler {
  /** @throws FormatError where the body, or the image under it, is not as the kind has it */
  check(parts: ImageParts, intent: RecoveredIntent): void;
  /** Finish or undo the operation, durable on return. A crash meanwhile leaves the intent, and what is left of the work. */
  resolve(parts: ImageParts, intent: RecoveredIntent): Task<void>;
}

/** A disk that was being made larger keeps its size; a reader sees it so, since the header still says it. */
const grow: IntentHandler = {
  check(parts, intent) {
    decodeGrow(parts, intent);
  },
  *resolve(parts, intent) {
    const { sizeBeforeBytes, sizeAfterBytes, reachBytes } = decodeGrow(parts, intent);
    const found = { id: intent.id, reachBytes };
    yield* new GrowOperation(parts, sizeBeforeBytes, sizeAfterBytes, found).undo();
  },
};

function decodeGrow(parts: ImageParts, intent: RecoveredIntent): GrowIntent {
  const grown = decodeGrowIntent(intent.body, { hostOffset: intent.hostOffset });
  const { sizeBytes } = parts.core.header;
  if (grown.sizeBeforeBytes === sizeBytes) return grown;
  throw new FormatError('BAD_FIELD', 'the disk has not the size that an operation under way says', {
    field: 'sizeBeforeBytes',
    value: grown.sizeBeforeBytes,
    hostOffset: intent.hostOffset,
    clause: 'JRN-INTENT-022',
  });
}

/** An L1 table that nothing names is counted down; nobody sees it meanwhile [JRN-INTENT-036]. */
const detachedTable: IntentHandler = {
  check(parts, intent) {
    parts.detachedTables = [...parts.detachedTables, decodeDetached(parts, intent)];
  },
  *resolve(parts, intent) {
    const table = yield* DetachedTable.found(parts, decodeDetached(parts, intent), intent.id);
    yield* table.countDown();
    yield* parts.core.log.commit();
    parts.detachedTables = [];
  },
};

function decodeDetached(parts: ImageParts, { body, hostOffset }: RecoveredIntent): DetachedTableIntent {
  const { core, snapshots } = parts;
  const table = decodeDetachedTableIntent(body, core, { hostOffset });
  core.refuseNoTable(table.l1Offset, table.l1Entries * 8);
  if (!snapshots.some(({ l1Offset }) => l1Offset === table.l1Offset)) return table;
  throw new FormatError('BAD_FIELD', 'the table of a snapshot is said to be detached', {
    field: 'l1Offset',
    value: table.l1Offset,
    hostOffset,
    clause: 'JRN-INTENT-030',
  });
}

const handlers: ReadonlyMap<number, IntentHandler> = new Map([
  [journalIntentKinds.grow, grow],
  [journalIntentKinds.detachedTable, detachedTable],
]);

/** The kinds of intents that this driver serves. */
export const servedIntentKinds: ReadonlySet<number> = new Set(handlers.keys());

/**
 * Hold the open intents of a log against the image, its log laid over it.
 * @throws FormatError
 */
export function checkIntents(parts: ImageParts, open: readonly RecoveredIntent[]): void {
  for (const intent of open) handlerOf(intent).check(parts, intent);
}

/** Finish or undo each, durable on return. Nobody else has the image yet. */
export function* resolveIntents(parts: ImageParts, open: readonly RecoveredIntent[]): Task<void> {
  for (const intent of open) yield* handlerOf(intent).resolve(parts, intent);
}

function handlerOf({ kind }: RecoveredIntent): IntentHandler {
  const handler = handlers.get(kind);
  if (handler === undefined)
    throw new InvariantError('an intent that recovery was to refuse', { value: kind });
  return handler;
}
