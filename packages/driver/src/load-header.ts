/**
 * Which kind of header an image has: today's, or the draft's of 2013, which gave other meanings to three places
 * that have been given away since. What tells them apart is a journal header at the journal offset [JD13-BIND-004].
 */
import { type BlockDevice, run, type Task, wait } from '@qcow2/block-device';
import {
  decodeClusterBytes,
  decodeDraftImageHeader,
  decodeHeader,
  peekDraftBinding,
  type Qcow2Header,
  withoutDraftBinding,
} from '@qcow2/codec';
import { type DraftArea, readDraftArea } from '@qcow2/journal';
import { FormatError } from '@qcow2/spec';

export interface LoadedHeader {
  readonly header: Qcow2Header;
  /** The journal of an image of the profile draft-2013. */
  readonly draft: DraftArea | undefined;
}

/** As `loadHeader`, for who only looks at an image: its tables may reach beyond the end of the file. */
export async function readImageHeader(device: BlockDevice): Promise<LoadedHeader> {
  return await run(loadHeader(device, { tablesInFile: false }));
}

/**
 * The header of an image, checked, and the draft's journal header where there is one.
 * @param options `tablesInFile: false` where tables beyond the end of the file are no error yet [HDR-033]
 * @throws FormatError; JOURNAL_DAMAGED where the draft's binding of a dirty image leads to no journal
 */
export function* loadHeader(
  device: BlockDevice,
  options: { readonly tablesInFile?: boolean } = {},
): Task<LoadedHeader> {
  const fileSizeBytes = options.tablesInFile === false ? undefined : device.sizeBytes;
  const head = new Uint8Array(Math.min(512, device.sizeBytes));
  yield* wait(device.read(0, head));
  const clusterBytes = decodeClusterBytes(head);
  const bytes = new Uint8Array(Math.min(clusterBytes, device.sizeBytes));
  yield* wait(device.read(0, bytes));
  const binding = peekDraftBinding(bytes);
  if (binding === undefined) return { header: decodeHeader(bytes, fileSizeBytes), draft: undefined };
  let cause: unknown;
  if (binding.hostOffset >= clusterBytes && binding.hostOffset < device.sizeBytes) {
    try {
      const draft = yield* readDraftArea(device, binding.hostOffset, clusterBytes);
      return { header: decodeDraftImageHeader(bytes, fileSizeBytes), draft };
    } catch (error) {
      if (!(error instanceof FormatError) || error.context.hostOffset === undefined) throw error;
      if (error.context.hostOffset < binding.hostOffset) throw error;
      cause = error;
    }
  }
  try {
    return { header: decodeHeader(bytes, fileSizeBytes), draft: undefined };
  } catch (error) {
    if (!(error instanceof FormatError) || error.context.clause !== 'FEA-010') throw error;
    // The bit is set, and no bitmaps are: what is left of a draft's binding [JD13-BIND-008].
    if (!binding.dirty) {
      return { header: decodeHeader(withoutDraftBinding(bytes), fileSizeBytes), draft: undefined };
    }
    if (binding.hostOffset === 0) throw error;
    const context = { hostOffset: binding.hostOffset, clause: 'JD13-BIND-008' };
    const message = 'the image is marked as dirty, and its journal can not be found';
    throw new FormatError('JOURNAL_DAMAGED', message, context, cause);
  }
}
