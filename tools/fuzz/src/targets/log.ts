/**
 * Recovery and inspection of a damaged v1 log, without the image around it: quick, so that most of the inputs come
 * here. What recovery says and what inspection says of the same area must agree.
 */
import { run } from '@qcow2/block-device';
import { decodeHeader, findHeaderExtension } from '@qcow2/codec';
import { decodeJournalExtension, decodeSlot } from '@qcow2/codec/journal/v1';
import { type AreaLocation, inspectLog, recoverLog } from '@qcow2/journal';
import { headerExtensionTypes, hostOffset, type Qcow2Error } from '@qcow2/spec';
import { GuardedDevice } from '../guarded-device.ts';
import { journalledImages } from '../images.ts';
import { AreaMutator, type AreaPlace } from '../journal-area.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';

/** Where the journal of an image stands, and its block size. */
export function areaOf(bytes: Uint8Array): AreaPlace {
  const { extensions, clusterBits } = decodeHeader(bytes.subarray(0, Math.min(bytes.length, 65536)));
  const data = findHeaderExtension(extensions, headerExtensionTypes.journal) ?? new Uint8Array(0);
  const { journals } = decodeJournalExtension(data, { hostOffset: 0, clusterBytes: 2 ** clusterBits });
  const area = journals[0]!;
  const slot = decodeSlot(bytes.subarray(area.hostOffset, area.hostOffset + 512), {
    hostOffset: hostOffset(area.hostOffset),
  });
  return { ...area, blockBytes: 2 ** slot.blockSizeOrder };
}

interface Loaded {
  readonly device: GuardedDevice;
  readonly area: AreaLocation;
  readonly mutator: AreaMutator;
}

export class LogTarget implements Target {
  readonly name = 'log';
  readonly bases = ['short', 'wrapped', 'large-blocks', 'backed', 'clean'];
  readonly limits = { oneBytes: 1 << 17, allBytes: 4 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    for (const { name, bytes } of await journalledImages()) {
      const area = areaOf(bytes);
      const device = new GuardedDevice(bytes, { operations: 2000, bytes: 8 << 20 });
      const mutator = new AreaMutator(device, area, [bytes.length, 65536]);
      this.#loaded.set(name, { device, area, mutator });
    }
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.device.reset();
    this.#now.mutator.reset();
  }

  mutate(random: Random): void {
    this.#now!.mutator.mutate(random);
  }

  seal(random: Random): void {
    this.#now!.mutator.seal(random);
  }

  run(variant: number, verdict: Verdict): void {
    const { device, area } = this.#now!;
    device.rearm();
    device.readOnly = true;
    let guestBytes = 0;
    let settled = 0;
    let fills = 0;
    const recovered = verdict.attempt('recover', () =>
      run(
        recoverLog(device, area, {
          guestWrite: (_at, bytes) => {
            guestBytes += bytes.length;
          },
          guestSettled: () => {
            settled++;
          },
          fills: {
            copy: () => {
              fills++;
            },
            fillFromBacking: () => {
              fills++;
            },
            cancel: () => undefined,
          },
        }),
      ),
    );
    if (recovered !== undefined && 'records' in recovered) {
      verdict.noteCount('records', recovered.records.length);
      verdict.noteCount('guest', guestBytes);
      verdict.noteCount('settled', settled);
      verdict.noteCount('fills', fills);
      verdict.noteCount('host', recovered.hostWrites.setBytes);
    }
    if (variant % 4 === 0) this.#inspect(recovered === undefined, verdict);
    if (device.overBudget) verdict.finding('the budget of device operations is used up');
    if (device.violation !== undefined) verdict.finding(device.violation);
  }

  /** Inspection throws nothing, and refuses what recovery refuses. */
  #inspect(refused: boolean, verdict: Verdict): void {
    const { device, area } = this.#now!;
    let shown = 0;
    let error: Qcow2Error | undefined;
    const log = verdict.attempt('inspect', () =>
      run(
        inspectLog(device, area, {
          slots: () => undefined,
          record: () => {
            shown++;
          },
        }),
      ),
    );
    if (log === undefined || !('records' in log)) {
      verdict.finding('inspection threw');
      return;
    }
    error = log.error;
    verdict.note(`inspect${error?.code ?? ''},${log.end?.stop ?? ''}`);
    verdict.noteCount('stale', log.staleRecords);
    if (shown !== log.records) verdict.finding(`${shown} records shown, ${log.records} counted`);
    if (refused !== (error !== undefined)) {
      verdict.finding(
        `recovery ${refused ? 'refuses' : 'accepts'}, inspection does not: ${error?.message ?? ''}`,
      );
    }
  }
}
