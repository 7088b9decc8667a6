/** What stands in a v1 journal, for the damage that is done to it (`damage.ts`). */
import { type BlockDevice, run } from '@qcow2/block-device';
import { servedIntentKinds } from '@qcow2/driver';
import { type InspectedRecord, type InspectedSlots, inspectLog } from '@qcow2/journal';
import { InvariantError } from '@qcow2/spec';
import type { LiveLog } from './system-under-test.ts';

interface Area {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

/** The live log of an area that is whole. @throws INVARIANT or what recovery would, for one that is not */
export async function liveLogOf(device: BlockDevice, area: Area): Promise<LiveLog> {
  const seen: { slots?: InspectedSlots; records: InspectedRecord['header'][] } = { records: [] };
  const visitor = {
    slots: (found: InspectedSlots): void => {
      seen.slots = found;
    },
    record: ({ header }: InspectedRecord): void => {
      seen.records.push(header);
    },
  };
  const { error } = await run(inspectLog(device, area, visitor, servedIntentKinds));
  if (error !== undefined) throw error;
  const { slots, from, ring } = seen.slots ?? {};
  const ruling = from === undefined ? undefined : slots?.[from].slot;
  if (slots === undefined || ruling === undefined || ring === undefined) {
    throw new InvariantError('a journal without a slot');
  }
  return {
    areaOffset: area.hostOffset,
    areaBytes: area.lengthBytes,
    ringOffset: ring.hostOffset,
    ringBytes: ring.lengthBytes,
    slotOffsets: slots.map(({ hostOffset }) => hostOffset),
    durableSequence: ruling.durableSequence,
    records: seen.records.map(({ sequence, position, lengthBlocks, durableThrough }) => ({
      sequence,
      position,
      lengthBytes: lengthBlocks * ring.blockBytes,
      durableThrough,
    })),
  };
}
