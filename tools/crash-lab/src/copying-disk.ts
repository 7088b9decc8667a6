/** The disk of the lab as one that copies bytes of others by itself, as a file does. What it did stands in the log as a write. */
import type { BlockDevice, ByteOrigin } from '@qcow2/block-device';
import { Partition } from './partition.ts';

export class CopyingDisk extends Partition {
  constructor(disk: BlockDevice) {
    super(disk, 0);
  }

  /** Not at once: other requests come in between. */
  async copyFrom({ device, offset: from, lengthBytes }: ByteOrigin, offset: number): Promise<number> {
    const bytes = new Uint8Array(lengthBytes);
    await device.read(from, bytes);
    await this.write(offset, bytes, { event: 'write_data' });
    return lengthBytes;
  }
}
