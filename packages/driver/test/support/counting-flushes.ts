/** A device that keeps what was written between each two flushes. */
import type { FlushOptions } from '@qcow2/block-device';
import { CountingDevice } from './counting-device.ts';

/** What was written since the flush before, and is made durable by this one. */
export interface FlushCost {
  readonly writes: number;
  readonly bytes: number;
  /** Writes of guest bytes in place. */
  readonly dataWrites: number;
}

export class FlushCostDevice extends CountingDevice {
  readonly costs: FlushCost[] = [];

  override flush(options?: FlushOptions): void | Promise<void> {
    const { requests: writes, bytes } = this.writes();
    this.costs.push({ writes, bytes, dataWrites: this.writes('write_data').requests });
    this.reset();
    return super.flush(options);
  }
}
