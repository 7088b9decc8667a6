/**
 * How a command ends when it can not do what it was asked: one clear line on standard error and an exit
 * code, after qemu-img's words wherever it has some. A failure is a StateError (the request does not fit),
 * so that whoever catches errors of this project sees these too.
 */
import { FormatError, Qcow2Error, StateError } from '@qcow2/spec';

/** A refusal in words of the command itself: shown as it stands, without code or context. */
export class CommandFailure extends StateError {
  readonly exitCode: number;
  /** The line that points to --help follows, as after every wrong use. */
  readonly hint: boolean;

  constructor(message: string, options: { exitCode?: number; hint?: boolean; cause?: unknown } = {}) {
    super('INVALID_ARGUMENT', message, {}, options.cause);
    this.exitCode = options.exitCode ?? 1;
    this.hint = options.hint ?? false;
  }
}

/** The arguments are not of the shape that the command takes. */
export function usageFailure(message: string): CommandFailure {
  return new CommandFailure(message, { hint: true });
}

/**
 * The error in one line: what went wrong, where it stands (host offset, field, clause: the message of every
 * Qcow2Error ends with them), and the stable code in brackets, which a script can match.
 */
export function describeError(error: unknown): string {
  if (error instanceof CommandFailure) return error.message;
  if (error instanceof Qcow2Error) return `${error.message} [${error.code}]`;
  return error instanceof Error ? error.message : String(error);
}

/**
 * Why an image could not be opened, in qemu-img's words where scripts look for them: a missing file, a file
 * of another format, a feature that is not supported. Everything else says code, host offset, field and clause.
 */
export function describeOpenFailure(path: string, error: unknown): string {
  return `Could not open '${path}': ${openFailureReason(path, error)}`;
}

/** The same without the words in front. */
export function openFailureReason(path: string, error: unknown): string {
  if (!(error instanceof Qcow2Error)) return describeError(error);
  switch (error.code) {
    case 'NOT_FOUND':
      return `Could not open '${path}': No such file or directory`;
    case 'ACCESS_DENIED':
      return `Could not open '${path}': Permission denied`;
    case 'IN_USE':
      return error.message;
    case 'NO_SECRET':
      return "Parameter 'encrypt.key-secret' is required for cipher";
    case 'WRONG_SECRET':
      return 'Invalid password, cannot unlock any keyslot';
    case 'BAD_MAGIC':
      return isImageMagic(error) ? 'Image is not in qcow2 format' : describeError(error);
    case 'UNSUPPORTED_FEATURE':
      return error.context.feature === undefined
        ? describeError(error)
        : `Unsupported qcow2 feature(s): ${error.context.feature}`;
    case 'BAD_FIELD':
      return error.context.field === 'version' && error.context.hostOffset === versionAt
        ? `Unsupported qcow2 version ${error.context.value}`
        : describeError(error);
    default:
      return describeError(error);
  }
}

/** Where the header's version stands. */
const versionAt = 4;

function isImageMagic(error: Qcow2Error): boolean {
  return error instanceof FormatError && (error.context.hostOffset ?? 0) === 0;
}
