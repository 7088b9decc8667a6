/**
 * The client's half of the handshake: from the greeting to an export, or to the list of them. It reads and sends through
 * `HandshakeStream` and knows no socket.
 *
 * A server of the fixed newstyle is asked for structured replies, for base:allocation and for its block sizes (GO); one that does not know
 * GO is asked with EXPORT_NAME, as are those of the newstyle before it was fixed. One of the old style sends its only export unasked.
 */
import { FormatError, StorageError } from '@qcow2/spec';
import {
  allocationContext,
  clientFlag,
  clientLimits,
  handshakeFlag,
  infoType,
  limits,
  magic,
  option,
  optionReply,
  wireBytes,
} from './protocol.ts';

export interface HandshakeStream {
  /** Exactly so many bytes. @throws StorageError where the server ends before, or time is up */
  take(lengthBytes: number): Promise<Uint8Array>;
  send(bytes: Uint8Array): void;
  /** From here on everything is encrypted. Undefined: nobody said with what. */
  readonly startTls: (() => Promise<void>) | undefined;
}

export interface BlockSizes {
  readonly minimum: number;
  readonly preferred: number;
  readonly maximum: number;
}

export interface NegotiatedExport {
  readonly sizeBytes: number;
  /** Of the transmission phase. */
  readonly flags: number;
  readonly structured: boolean;
  /** Number of base:allocation, or of the metadata context that was wanted in its place; undefined where the server does not serve it. */
  readonly allocationId: number | undefined;
  /** Undefined where the server says nothing of them. */
  readonly blockSizes: BlockSizes | undefined;
}

/** An export as a list shows it. */
export interface ListedExport {
  readonly name: string;
  readonly description: string;
  /** Where it was asked for, and the server has an answer. */
  readonly details?: ExportDetails;
}

export interface ExportDetails {
  readonly sizeBytes: number;
  /** Of the transmission phase, as bits of the protocol. */
  readonly flags: number;
  readonly blockSizes: BlockSizes | undefined;
  /** Names of what can be asked for about ranges. */
  readonly contexts: readonly string[];
}

interface Reply {
  readonly type: number;
  readonly data: Uint8Array;
}

interface Greeting {
  readonly isFixed: boolean;
  readonly noZeroes: boolean;
}

/**
 * @param context whose number is `allocationId`, where the server has it
 * @throws NOT_FOUND: there is no such export (`context.value`: what the server says); ACCESS_DENIED: the server wants TLS, or its
 *   policy forbids it; CONNECT_FAILED; FormatError where the server breaks the protocol
 */
export async function negotiateExport(
  stream: HandshakeStream,
  name: string,
  context: string = allocationContext.name,
): Promise<NegotiatedExport> {
  const greeting = await greet(stream);
  if (greeting === 'old style') return await oldStyleExport(stream, name);
  if (!greeting.isFixed) {
    refuseWithoutTls(stream);
    return await namedExport(stream, name, greeting, false);
  }
  await startTls(stream);
  const structured = (await ask(stream, option.STRUCTURED_REPLY)).last.type === optionReply.ACK;
  const allocationId = structured ? await numberOfContext(stream, name, context) : undefined;
  const { replies, last } = await ask(stream, option.GO, infoData(name, [infoType.BLOCK_SIZE]));
  if (last.type === optionReply.ERR_UNSUP) return await namedExport(stream, name, greeting, structured);
  if (last.type !== optionReply.ACK) throw refusal(last, name);
  return { ...exportInfo(replies), structured, allocationId };
}

/** @throws as `negotiateExport`; CONNECT_FAILED too for a server from before the fixed newstyle, which lists nothing */
export async function negotiateList(stream: HandshakeStream, details = false): Promise<ListedExport[]> {
  const greeting = await greet(stream);
  if (greeting === 'old style' || !greeting.isFixed) {
    throw new StorageError('CONNECT_FAILED', 'the server is too old to list its exports');
  }
  await startTls(stream);
  const { replies, last } = await ask(stream, option.LIST);
  if (last.type !== optionReply.ACK) throw refusal(last, '');
  const listed = replies
    .filter(({ type }) => type === optionReply.SERVER)
    .map(({ data }) => listedExport(data));
  const detailed = details ? await withDetails(stream, listed) : listed;
  stream.send(optionBytes(option.ABORT));
  return detailed;
}

async function withDetails(
  stream: HandshakeStream,
  exports: readonly ListedExport[],
): Promise<ListedExport[]> {
  const structured = (await ask(stream, option.STRUCTURED_REPLY)).last.type === optionReply.ACK;
  const detailed: ListedExport[] = [];
  for (const each of exports) {
    const { name } = each;
    const { replies, last } = await ask(stream, option.INFO, infoData(name, [infoType.BLOCK_SIZE]));
    if (last.type !== optionReply.ACK) {
      detailed.push(each);
      continue;
    }
    const contexts = structured ? await contextsOf(stream, name) : [];
    detailed.push({ ...each, details: { ...exportInfo(replies), contexts } });
  }
  return detailed;
}

async function contextsOf(stream: HandshakeStream, name: string): Promise<readonly string[]> {
  const { replies, last } = await ask(stream, option.LIST_META_CONTEXT, contextData(name, []));
  if (last.type !== optionReply.ACK) return [];
  return replies
    .filter(({ type, data }) => type === optionReply.META_CONTEXT && data.length >= 4)
    .map(({ data }) => textOf(data.subarray(4)));
}

async function greet(stream: HandshakeStream): Promise<Greeting | 'old style'> {
  const head = viewOf(await stream.take(16));
  if (head.getUint32(0) !== magic.initHigh || head.getUint32(4) !== magic.initLow) {
    throw badMagic('not an NBD server', head);
  }
  if (head.getUint32(8) === magic.oldStyleHigh && head.getUint32(12) === magic.oldStyleLow)
    return 'old style';
  if (head.getUint32(8) !== magic.optionHigh || head.getUint32(12) !== magic.optionLow) {
    throw badMagic('not a greeting of the NBD protocol', head, 8);
  }
  const flags = viewOf(await stream.take(2)).getUint16(0);
  const isFixed = (flags & handshakeFlag.FIXED_NEWSTYLE) !== 0;
  const noZeroes = (flags & handshakeFlag.NO_ZEROES) !== 0;
  const answer = new Uint8Array(wireBytes.clientFlags);
  viewOf(answer).setUint32(
    0,
    (isFixed ? clientFlag.FIXED_NEWSTYLE : 0) | (noZeroes ? clientFlag.NO_ZEROES : 0),
  );
  stream.send(answer);
  return { isFixed, noZeroes };
}

async function startTls(stream: HandshakeStream): Promise<void> {
  if (stream.startTls === undefined) return;
  const { last } = await ask(stream, option.STARTTLS);
  if (last.type !== optionReply.ACK) {
    throw new StorageError('ACCESS_DENIED', 'the server does not offer TLS', { value: textOf(last.data) });
  }
  await stream.startTls();
}

function refuseWithoutTls(stream: HandshakeStream): void {
  if (stream.startTls === undefined) return;
  throw new StorageError('ACCESS_DENIED', 'the server does not offer TLS');
}

async function numberOfContext(
  stream: HandshakeStream,
  name: string,
  context: string,
): Promise<number | undefined> {
  const { replies, last } = await ask(stream, option.SET_META_CONTEXT, contextData(name, [context]));
  if (last.type !== optionReply.ACK) return undefined;
  for (const { type, data } of replies) {
    if (type !== optionReply.META_CONTEXT || data.length < 4) continue;
    if (textOf(data.subarray(4)) === context) return viewOf(data).getUint32(0);
  }
  return undefined;
}

/** EXPORT_NAME, which has no way to say no but to end the connection. */
async function namedExport(
  stream: HandshakeStream,
  name: string,
  { noZeroes }: Greeting,
  structured: boolean,
): Promise<NegotiatedExport> {
  stream.send(optionBytes(option.EXPORT_NAME, utf8.encode(name)));
  let head: DataView;
  try {
    head = viewOf(await stream.take(wireBytes.exportNameReply));
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    throw new StorageError('NOT_FOUND', `the server ended at the export's name: ${error.message}`, {}, error);
  }
  if (!noZeroes) await stream.take(wireBytes.exportNameZeroes);
  const flags = head.getUint16(8);
  return { sizeBytes: sizeOf(head, 0), flags, structured, allocationId: undefined, blockSizes: undefined };
}

async function oldStyleExport(stream: HandshakeStream, name: string): Promise<NegotiatedExport> {
  refuseWithoutTls(stream);
  if (name !== '')
    throw new StorageError('NOT_FOUND', 'a server of the old style has one export, without a name');
  const head = viewOf(await stream.take(wireBytes.oldStyleExport));
  return {
    sizeBytes: sizeOf(head, 0),
    flags: head.getUint32(8) & 0xffff,
    structured: false,
    allocationId: undefined,
    blockSizes: undefined,
  };
}

/** One option, and what is said to it: at last an ACK, or an error. */
async function ask(
  stream: HandshakeStream,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Promise<{ replies: Reply[]; last: Reply }> {
  stream.send(optionBytes(type, data));
  const replies: Reply[] = [];
  let characters = 0;
  for (;;) {
    const head = viewOf(await stream.take(wireBytes.optionReplyHeader));
    if (head.getUint32(0) !== magic.optionReplyHigh || head.getUint32(4) !== magic.optionReplyLow) {
      throw badMagic('not a reply to an option', head);
    }
    if (head.getUint32(8) !== type) {
      throw new FormatError('BAD_FIELD', 'a reply to an option that was not sent', {
        field: 'option',
        value: head.getUint32(8),
      });
    }
    const lengthBytes = head.getUint32(16);
    if (lengthBytes > limits.optionBytes) throw tooLong('a reply to an option', lengthBytes);
    const reply = { type: head.getUint32(12), data: (await stream.take(lengthBytes)).slice() };
    if (reply.type === optionReply.ACK || reply.type >= 2 ** 31) return { replies, last: reply };
    replies.push(reply);
    characters += lengthBytes;
    if (replies.length > clientLimits.optionReplies || characters > clientLimits.listCharacters) {
      throw tooLong('the replies to an option', characters);
    }
  }
}

function exportInfo(replies: readonly Reply[]): Pick<NegotiatedExport, 'sizeBytes' | 'flags' | 'blockSizes'> {
  let found: { sizeBytes: number; flags: number } | undefined;
  let blockSizes: BlockSizes | undefined;
  for (const { type, data } of replies) {
    if (type !== optionReply.INFO || data.length < 2) continue;
    const view = viewOf(data);
    const kind = view.getUint16(0);
    if (kind === infoType.EXPORT) {
      if (data.length !== 12) throw badInfo('EXPORT', data.length);
      found = { sizeBytes: sizeOf(view, 2), flags: view.getUint16(10) };
    } else if (kind === infoType.BLOCK_SIZE) {
      if (data.length !== 14) throw badInfo('BLOCK_SIZE', data.length);
      blockSizes = checkedSizes(view);
    }
  }
  if (found === undefined) throw new FormatError('BAD_FIELD', 'the server says nothing of the export');
  return { ...found, blockSizes };
}

function checkedSizes(view: DataView): BlockSizes {
  const sizes = { minimum: view.getUint32(2), preferred: view.getUint32(6), maximum: view.getUint32(10) };
  const { minimum, preferred, maximum } = sizes;
  const isPower = (value: number): boolean => value > 0 && Number.isInteger(Math.log2(value));
  const isGood =
    isPower(minimum) &&
    minimum <= limits.minimumBlockBytes &&
    isPower(preferred) &&
    preferred >= minimum &&
    maximum >= minimum;
  if (isGood) return sizes;
  throw new FormatError('BAD_FIELD', 'block sizes that can not be', {
    field: 'block size',
    value: `${minimum}, ${preferred}, ${maximum}`,
  });
}

function listedExport(data: Uint8Array): ListedExport {
  const nameBytes = data.length < 4 ? Number.POSITIVE_INFINITY : viewOf(data).getUint32(0);
  if (nameBytes > data.length - 4) throw new FormatError('BAD_FIELD', 'an export without a name');
  return { name: textOf(data.subarray(4, 4 + nameBytes)), description: textOf(data.subarray(4 + nameBytes)) };
}

function refusal({ type, data }: Reply, name: string): StorageError {
  const value = textOf(data);
  const context = value === '' ? {} : { value };
  switch (type) {
    case optionReply.ERR_UNKNOWN:
      return new StorageError('NOT_FOUND', `the server has no export '${name}'`, context);
    case optionReply.ERR_TLS_REQD:
      return new StorageError('ACCESS_DENIED', 'the server wants TLS', context);
    case optionReply.ERR_POLICY:
      return new StorageError('ACCESS_DENIED', 'the server does not allow it', context);
    case optionReply.ERR_SHUTDOWN:
      return new StorageError('CONNECT_FAILED', 'the server is shutting down', context);
    default:
      return new StorageError('CONNECT_FAILED', `the server refuses, with error ${type - 2 ** 31}`, context);
  }
}

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder();

/** @throws LIMIT_EXCEEDED for a text that is longer than the protocol allows */
function textOf(bytes: Uint8Array): string {
  if (bytes.length > limits.stringBytes) throw tooLong('a text of the server', bytes.length);
  return fromUtf8.decode(bytes);
}

function sizeOf(view: DataView, at: number): number {
  const sizeBytes = view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
  if (Number.isSafeInteger(sizeBytes)) return sizeBytes;
  throw new FormatError('OFFSET_TOO_LARGE', 'an export of 8 PiB or more', { value: view.getBigUint64(at) });
}

function optionBytes(type: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(wireBytes.optionHeader + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, magic.optionHigh);
  view.setUint32(4, magic.optionLow);
  view.setUint32(8, type);
  view.setUint32(12, data.length);
  bytes.set(data, wireBytes.optionHeader);
  return bytes;
}

function infoData(name: string, types: readonly number[]): Uint8Array {
  const text = utf8.encode(name);
  const bytes = new Uint8Array(6 + text.length + 2 * types.length);
  const view = viewOf(bytes);
  view.setUint32(0, text.length);
  bytes.set(text, 4);
  view.setUint16(4 + text.length, types.length);
  for (const [index, type] of types.entries()) view.setUint16(6 + text.length + 2 * index, type);
  return bytes;
}

function contextData(name: string, queries: readonly string[]): Uint8Array {
  const [nameText = new Uint8Array(0), ...texts] = [name, ...queries].map((text) => utf8.encode(text));
  const bytes = new Uint8Array(texts.reduce((sum, text) => sum + 4 + text.length, 8 + nameText.length));
  const view = viewOf(bytes);
  let at = 0;
  const put = (text: Uint8Array): void => {
    view.setUint32(at, text.length);
    bytes.set(text, at + 4);
    at += 4 + text.length;
  };
  put(nameText);
  view.setUint32(at, texts.length);
  at += 4;
  for (const text of texts) put(text);
  return bytes;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function badMagic(message: string, view: DataView, at = 0): FormatError {
  return new FormatError('BAD_MAGIC', message, { field: 'magic', value: view.getBigUint64(at) });
}

function badInfo(kind: string, lengthBytes: number): FormatError {
  return new FormatError('BAD_FIELD', `${kind} information of a wrong length`, { lengthBytes });
}

function tooLong(what: string, lengthBytes: number): FormatError {
  return new FormatError('LIMIT_EXCEEDED', `${what} is too long`, { lengthBytes });
}
