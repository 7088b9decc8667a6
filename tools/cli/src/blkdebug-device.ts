/**
 * A device whose requests fail by QEMU's rules. An event puts the rules to work that wait for it, in place of those that were at work before;
 * what is at work strikes every request of its kinds that touches its sector, until another event brings others, or, with `once`, it
 * has struck. The tests of this project have a device of their own for faults (`FaultDevice`), with more kinds of them; this one
 * is for what QEMU's files of rules say.
 */
import { getSystemErrorMap } from 'node:util';
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  IoEvent,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';
import { StorageError } from '@qcow2/spec';
import { type BlkdebugRules, eventOf, type InjectRule, type IoKind } from './blkdebug-rules.ts';

interface Request {
  readonly kind: IoKind;
  readonly event?: IoEvent | undefined;
  readonly offset?: number;
  readonly lengthBytes?: number;
}

export class BlkdebugDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #rules: BlkdebugRules;
  readonly #isRaw: boolean;
  /** Rules that have struck for the only time. */
  readonly #spent = new Set<InjectRule>();
  #active: readonly InjectRule[] = [];
  #state = 1;

  /**
   * Closing this closes `below`.
   * @param isRaw as for `eventOf`
   */
  constructor(below: BlockDevice, rules: BlkdebugRules, isRaw: boolean) {
    this.#below = below;
    this.#rules = rules;
    this.#isRaw = isRaw;
    this.#raise('none');
  }

  get capabilities(): DeviceCapabilities {
    return this.#below.capabilities;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    this.#refuse({ kind: 'read', event: options?.event, offset, lengthBytes: into.length });
    return this.#below.read(offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#refuse({ kind: 'write', event: options?.event, offset, lengthBytes: bytes.length });
    return this.#below.write(offset, bytes, options);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#refuse({ kind: 'write-zeroes', event: options?.event, offset, lengthBytes });
    return this.#below.writeZeroes(offset, lengthBytes, options);
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#refuse({ kind: 'discard', event: options?.event, offset, lengthBytes });
    return this.#below.discard(offset, lengthBytes, options);
  }

  flush(options?: FlushOptions): void | Promise<void> {
    this.#refuse({ kind: 'flush', event: options?.event });
    return this.#below.flush(options);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    this.#refuse({ kind: 'block-status', offset, lengthBytes });
    return this.#below.extents(offset, lengthBytes);
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#below.resize(sizeBytes);
  }

  close(): void | Promise<void> {
    return this.#below.close();
  }

  #raise(event: string): void {
    const fits = (rule: { readonly event: string; readonly state: number }): boolean =>
      rule.event === event && (rule.state === 0 || rule.state === this.#state);
    const brought = this.#rules.inject.filter((rule) => fits(rule) && !this.#spent.has(rule));
    if (brought.length > 0) this.#active = brought;
    const next = this.#rules.states.filter(fits).at(-1);
    if (next !== undefined) this.#state = next.newState;
  }

  /** @throws what the first rule at work says that fits */
  #refuse(request: Request): void {
    const { kind, offset = 0, lengthBytes = 0 } = request;
    const event = eventOf(kind, request.event, this.#isRaw);
    if (event !== undefined) this.#raise(event);
    const touches = (at: number): boolean => at >= offset && at < offset + lengthBytes;
    const rule = this.#active.find(
      (one) => one.kinds.has(kind) && (one.hostOffset === undefined || touches(one.hostOffset)),
    );
    if (rule === undefined) return;
    if (rule.once) {
      this.#spent.add(rule);
      this.#active = this.#active.filter((one) => one !== rule);
    }
    throw injected(request, rule.errno);
  }
}

const noSpace = 28;

function injected({ kind, offset, lengthBytes }: Request, errno: number): StorageError {
  const [name, text] = getSystemErrorMap().get(-errno) ?? [`error ${errno}`, ''];
  const context = { hostOffset: offset, lengthBytes };
  const cause = new StorageError('FAULT_INJECTED', `a rule asked for ${name}`, context);
  const message = `${kind} failed: ${text === '' ? name : text}`;
  if (kind === 'flush') return new StorageError('FLUSH_FAILED', message, {}, cause);
  if (kind === 'read' || kind === 'block-status')
    return new StorageError('READ_FAILED', message, context, cause);
  return new StorageError(errno === noSpace ? 'NO_SPACE' : 'WRITE_FAILED', message, context, cause);
}
