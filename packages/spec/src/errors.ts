/**
 * Every error that this project throws on purpose, in one table. The table makes `docs/errors.md`
 * and maps to NBD error numbers; codes are stable, messages are free to change.
 *
 * Classes say what the caller can do: a FormatError is about bytes that someone wrote, an
 * UnsupportedFeatureError about a wish that is legal but not served here, a StorageError about the
 * device below, a StateError about the caller's own request, an InvariantError about a bug of ours
 * (the image stops taking writes).
 */
export type ErrorClass = 'format' | 'unsupported' | 'storage' | 'state' | 'invariant';

/** NBD protocol error numbers (doc/proto.md, "Error values"). */
export const nbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdErrno = keyof typeof nbdErrno;

export interface ErrorCodeEntry {
  readonly class: ErrorClass;
  readonly nbd: NbdErrno;
  readonly meaning: string;
}

export const errorCodes = {
  // format: what stands on disk is not what the clause says
  BAD_MAGIC: { class: 'format', nbd: 'EIO', meaning: 'the magic number is not the one expected' },
  BAD_FIELD: { class: 'format', nbd: 'EIO', meaning: 'a field holds a value outside its range' },
  BAD_ALIGNMENT: { class: 'format', nbd: 'EIO', meaning: 'an offset is not aligned as its clause demands' },
  BAD_CHECKSUM: { class: 'format', nbd: 'EIO', meaning: 'a stored checksum does not match the bytes' },
  RESERVED_SET: { class: 'format', nbd: 'EIO', meaning: 'reserved bits or bytes are not zero' },
  TRUNCATED: { class: 'format', nbd: 'EIO', meaning: 'a structure ends before all its bytes are there' },
  OFFSET_TOO_LARGE: {
    class: 'format',
    nbd: 'EIO',
    meaning: 'an offset or length beyond 2^53 - 1, which is not handled',
  },
  LIMIT_EXCEEDED: {
    class: 'format',
    nbd: 'EIO',
    meaning: 'a size above the limit that this implementation sets',
  },
  OVERLAP: { class: 'format', nbd: 'EIO', meaning: 'two structures claim the same host range' },
  REFCOUNT_WRONG: { class: 'format', nbd: 'EIO', meaning: 'a refcount contradicts the references found' },
  COMPRESSED_DAMAGED: {
    class: 'format',
    nbd: 'EIO',
    meaning: 'compressed data that does not make one cluster',
  },
  JOURNAL_DAMAGED: {
    class: 'format',
    nbd: 'EIO',
    meaning: 'a journal record that was durable can not be read back',
  },
  CHAIN_LOOP: {
    class: 'format',
    nbd: 'EIO',
    meaning: 'a chain of files comes back to one that is in it already',
  },
  // unsupported: legal, but not served here
  UNSUPPORTED_FEATURE: {
    class: 'unsupported',
    nbd: 'ENOTSUP',
    meaning: 'the image needs a feature that is not supported',
  },
  UNSUPPORTED_OPERATION: {
    class: 'unsupported',
    nbd: 'ENOTSUP',
    meaning: 'the device can not do this operation',
  },
  UNSUPPORTED_OPTION: { class: 'unsupported', nbd: 'EINVAL', meaning: 'an option that is not supported' },
  // storage: the device below failed
  READ_FAILED: { class: 'storage', nbd: 'EIO', meaning: 'the device failed a read' },
  WRITE_FAILED: { class: 'storage', nbd: 'EIO', meaning: 'the device failed a write' },
  FLUSH_FAILED: {
    class: 'storage',
    nbd: 'EIO',
    meaning: 'the device failed a flush; later writes are refused',
  },
  NO_SPACE: { class: 'storage', nbd: 'ENOSPC', meaning: 'the device or the format has no room left' },
  SHORT_READ: { class: 'storage', nbd: 'EIO', meaning: 'the device returned fewer bytes than asked for' },
  NOT_FOUND: { class: 'storage', nbd: 'EIO', meaning: 'the file does not exist' },
  ACCESS_DENIED: { class: 'storage', nbd: 'EPERM', meaning: 'the file may not be opened this way' },
  IN_USE: { class: 'storage', nbd: 'EPERM', meaning: 'another process holds the image' },
  CONNECT_FAILED: {
    class: 'storage',
    nbd: 'EIO',
    meaning: 'no connection to the server came about: not reached, not in time, or not of the protocol',
  },
  CONNECTION_LOST: {
    class: 'storage',
    nbd: 'EIO',
    meaning: 'the connection to the server has ended; what was asked last may be done or not',
  },
  SOURCE_CHANGED: {
    class: 'storage',
    nbd: 'EIO',
    meaning: 'what is read is not what was opened: somebody has replaced or changed it',
  },
  FAULT_INJECTED: { class: 'storage', nbd: 'EIO', meaning: 'a fault that a test asked for' },
  // state: the request does not fit the state of the object
  OUT_OF_RANGE: { class: 'state', nbd: 'EINVAL', meaning: 'the request reaches beyond the end' },
  INVALID_ARGUMENT: { class: 'state', nbd: 'EINVAL', meaning: 'an argument is not of the right kind' },
  READ_ONLY: { class: 'state', nbd: 'EPERM', meaning: 'the device was opened read-only' },
  CLOSED: { class: 'state', nbd: 'ESHUTDOWN', meaning: 'the device is closed' },
  FAILED_EARLIER: {
    class: 'state',
    nbd: 'EIO',
    meaning: 'an earlier flush or write failed; reopen to recover',
  },
  NO_POLICY: {
    class: 'state',
    nbd: 'EPERM',
    meaning: 'the image names another file and the caller gave no policy for it',
  },
  NO_SECRET: {
    class: 'state',
    nbd: 'EPERM',
    meaning: 'the image is encrypted, and the caller gave nothing to open it with',
  },
  WRONG_SECRET: { class: 'state', nbd: 'EPERM', meaning: 'the secret does not open the image' },
  NEEDS_REPLAY: { class: 'state', nbd: 'EPERM', meaning: 'the journal must be replayed first' },
  ABORTED: { class: 'state', nbd: 'ESHUTDOWN', meaning: 'the caller aborted the operation' },
  // invariant: our bug
  INVARIANT: {
    class: 'invariant',
    nbd: 'EIO',
    meaning: 'an internal invariant does not hold; this is a bug',
  },
} as const satisfies Record<string, ErrorCodeEntry>;

export type ErrorCode = keyof typeof errorCodes;
type CodeOf<C extends ErrorClass> = {
  [K in ErrorCode]: (typeof errorCodes)[K]['class'] extends C ? K : never;
}[ErrorCode];

/** Where an error was found: the bytes' host offset, the field's name, the clause that it breaks. */
export interface ErrorContext {
  readonly hostOffset?: number | undefined;
  readonly guestOffset?: number | undefined;
  readonly lengthBytes?: number | undefined;
  readonly field?: string | undefined;
  readonly clause?: string | undefined;
  readonly value?: number | bigint | string | undefined;
  readonly feature?: string | undefined;
  readonly path?: string | undefined;
}

/** Base of all errors of this project. `code` is stable; `context` says where; `cause` is the error below. */
export class Qcow2Error extends Error {
  readonly code: ErrorCode;
  readonly context: ErrorContext;

  constructor(code: ErrorCode, message: string, context: ErrorContext = {}, cause?: unknown) {
    super(describe(message, context), cause === undefined ? undefined : { cause });
    this.code = code;
    this.context = context;
  }

  /** The error's NBD number, for a server. */
  get nbdErrno(): number {
    return nbdErrno[errorCodes[this.code].nbd];
  }
}

export class FormatError extends Qcow2Error {
  override readonly name = 'FormatError';
  declare readonly code: CodeOf<'format'>;
  constructor(code: CodeOf<'format'>, message: string, context?: ErrorContext, cause?: unknown) {
    super(code, message, context, cause);
  }
}

export class UnsupportedFeatureError extends Qcow2Error {
  override readonly name = 'UnsupportedFeatureError';
  declare readonly code: CodeOf<'unsupported'>;
  constructor(code: CodeOf<'unsupported'>, message: string, context?: ErrorContext, cause?: unknown) {
    super(code, message, context, cause);
  }
}

export class StorageError extends Qcow2Error {
  override readonly name = 'StorageError';
  declare readonly code: CodeOf<'storage'>;
  constructor(code: CodeOf<'storage'>, message: string, context?: ErrorContext, cause?: unknown) {
    super(code, message, context, cause);
  }
}

export class StateError extends Qcow2Error {
  override readonly name = 'StateError';
  declare readonly code: CodeOf<'state'>;
  constructor(code: CodeOf<'state'>, message: string, context?: ErrorContext, cause?: unknown) {
    super(code, message, context, cause);
  }
}

export class InvariantError extends Qcow2Error {
  override readonly name = 'InvariantError';
  declare readonly code: 'INVARIANT';
  constructor(message: string, context?: ErrorContext, cause?: unknown) {
    super('INVARIANT', message, context, cause);
  }
}

function describe(message: string, context: ErrorContext): string {
  const parts: string[] = [];
  if (context.field !== undefined) parts.push(`field ${context.field}`);
  if (context.value !== undefined) parts.push(`value ${showValue(context.value)}`);
  if (context.hostOffset !== undefined) parts.push(`host offset 0x${context.hostOffset.toString(16)}`);
  if (context.guestOffset !== undefined) parts.push(`guest offset 0x${context.guestOffset.toString(16)}`);
  if (context.lengthBytes !== undefined) parts.push(`length ${context.lengthBytes}`);
  if (context.feature !== undefined) parts.push(`feature ${context.feature}`);
  if (context.clause !== undefined) parts.push(context.clause);
  return parts.length === 0 ? message : `${message} (${parts.join(', ')})`;
}

function showValue(value: number | bigint | string): string {
  if (typeof value === 'string') return JSON.stringify(value);
  return value < 10 ? `${value}` : `${value} = 0x${value.toString(16)}`;
}
