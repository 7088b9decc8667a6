/**
 * The disk as it was when a snapshot was made: a device that is read, beside the image and through its caches.
 *
 * What it maps does not change: the clusters of a snapshot are shared by then, and whoever writes to the disk copies
 * them first. A read that is under way when the snapshot is deleted ends well, since what is freed keeps its
 * bytes until the reads before have ended; later ones are refused.
 */
import {
  type BlockDevice,
  type ByteOrigin,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  readOnlyCapabilities,
  run,
  UnwritableDevice,
} from '@qcow2/block-device';
import type { Snapshot } from '@qcow2/codec';
import { StateError } from '@qcow2/spec';
import { ClusterReader } from './cluster-reader.ts';
import { CompressedReader } from './compressed-reader.ts';
import { guestExtents, guestOrigin } from './extents.ts';
import { GuestOverlay } from './guest-overlay.ts';
import { MappingTable } from './mapping.ts';
import type { ImageParts } from './parts.ts';
import { PendingClusters } from './pending-clusters.ts';

export class SnapshotDevice extends UnwritableDevice implements BlockDevice {
  readonly snapshot: Snapshot;
  readonly sizeBytes: number;
  readonly capabilities: DeviceCapabilities;
  protected override readonly readOnlyMessage = 'a snapshot is read-only';
  readonly #parts: ImageParts;
  readonly #mappings: MappingTable;
  readonly #reader: ClusterReader;
  readonly #nothing: { readonly overlay: GuestOverlay; readonly pending: PendingClusters };
  #ended: 'closed' | 'deleted' | undefined;

  /** @param l1 the snapshot's L1 table */
  constructor(parts: ImageParts, snapshot: Snapshot, l1: DataView) {
    super();
    const { core, allocator } = parts;
    this.#parts = parts;
    this.snapshot = snapshot;
    this.sizeBytes = snapshot.diskSizeBytes ?? core.header.sizeBytes;
    this.#mappings = new MappingTable(core, { l1, l1Offset: snapshot.l1Offset });
    this.#nothing = { overlay: new GuestOverlay(core.clusterBytes), pending: new PendingClusters() };
    const { overlay, pending } = this.#nothing;
    this.#reader = new ClusterReader(
      core,
      this.#mappings,
      overlay,
      allocator,
      pending,
      new CompressedReader(core),
    );
    this.capabilities = {
      ...readOnlyCapabilities,
      extents: true,
      preferredBlockBytes: Math.min(core.clusterBytes, 4096),
    };
    parts.snapshotDevices.add(this);
  }

  /** @throws CLOSED also when the snapshot was deleted or the image was closed */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    this.checkOpen();
    checkRange(offset, into.length, this.sizeBytes);
    return this.#reader.read(offset, into);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return run(guestExtents(this.#parts.core, this.#mappings, this.#nothing, offset, lengthBytes));
  }

  origin(offset: number, lengthBytes: number): ByteOrigin | undefined | Promise<ByteOrigin | undefined> {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return run(guestOrigin(this.#parts.core, this.#mappings, this.#nothing, offset, lengthBytes));
  }

  /** The image stays open. */
  close(): void {
    this.#ended ??= 'closed';
    this.#parts.snapshotDevices.delete(this);
  }

  /** The snapshot is gone, or the image is. */
  end(): void {
    this.#ended ??= 'deleted';
    this.#parts.snapshotDevices.delete(this);
  }

  protected override checkOpen(): void {
    if (this.#ended === undefined) return;
    const why =
      this.#ended === 'closed' ? 'the device is closed' : 'the snapshot was deleted, or its image closed';
    throw new StateError('CLOSED', why);
  }
}
