/**
 * The handshake, fixed newstyle, from the server's side: a pure state machine. Bytes of the client go in,
 * bytes for the client and at last a session (or the end) come out. Sockets and timers are `connection.ts`.
 *
 * A client that does not say FIXED_NEWSTYLE can only choose an export by EXPORT_NAME, which knows no
 * errors: what can not be served ends the connection, as the protocol asks. Every other option is answered,
 * unknown ones with ERR_UNSUP, so that a newer client can fall back.
 *
 * Where TLS is wanted, nothing is told and nothing agreed on before it has begun: STARTTLS and ABORT are the only options that
 * are served in the clear. Bytes behind STARTTLS, which a client does not send before the answer, end the connection: somebody
 * in between may have put them there, to have them taken for the client's own words once the line is safe.
 */
import { type ServedExport, transmissionFlags } from './export.ts';
import { isListedBy, type NumberedContext } from './metadata-context.ts';
import { type ClientOption, OptionParser } from './option-parser.ts';
import {
  clientFlag,
  handshakeFlag,
  infoType,
  limits,
  magic,
  option,
  optionReply,
  wireBytes,
} from './protocol.ts';
import { setUint64 } from './reply.ts';

/** What was agreed. */
export interface NbdSession {
  readonly served: ServedExport;
  /** replies are structured */
  readonly structured: boolean;
  /** the metadata contexts that the client chose for this export; without one it may not ask for block status */
  readonly contexts: readonly NumberedContext[];
  /** bytes that the client sent behind its last option */
  readonly rest: Uint8Array;
}

export type HandshakeOutcome =
  | { readonly kind: 'more' }
  | { readonly kind: 'session'; readonly session: NbdSession }
  /** the output is to be sent, then TLS begins; `secured` when it has */
  | { readonly kind: 'tls' }
  /** the output, if any, is to be sent first; `reason` is absent where the client asked to end */
  | { readonly kind: 'end'; readonly reason?: string };

type Exports = ReadonlyMap<string, ServedExport>;

const more: HandshakeOutcome = { kind: 'more' };
const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export class Handshake {
  readonly #exports: Exports;
  readonly #parser = new OptionParser();
  #output: Uint8Array[] = [];
  #outputBytes = 0;
  #clientFlags: number | undefined;
  #structured = false;
  /** TLS has to begin before anything else; false from then on */
  #wantsTls: boolean;
  /** the line is encrypted */
  #isSecure = false;
  /** the contexts that are selected, and for which export */
  #chosen: { readonly exportName: string; readonly contexts: readonly NumberedContext[] } | undefined;

  /** @param wantsTls serve nothing in the clear */
  constructor(exports: Exports, wantsTls = false) {
    this.#exports = exports;
    this.#wantsTls = wantsTls;
    this.#put(greeting());
  }

  /** Bytes for the client since the last call, the greeting first. */
  takeOutput(): readonly Uint8Array[] {
    const output = this.#output;
    this.#output = [];
    this.#outputBytes = 0;
    return output;
  }

  /**
   * Go as far as the bytes of the client lead. After an outcome other than `more` the handshake is over.
   * @throws FormatError BAD_MAGIC
   */
  advance(piece: Uint8Array): HandshakeOutcome {
    this.#parser.push(piece);
    if (this.#clientFlags === undefined) {
      this.#clientFlags = this.#parser.takeClientFlags();
      if (this.#clientFlags === undefined) return more;
      if ((this.#clientFlags & ~(clientFlag.FIXED_NEWSTYLE | clientFlag.NO_ZEROES)) !== 0) {
        return { kind: 'end', reason: 'unknown client flags' };
      }
    }
    for (;;) {
      const taken = this.#parser.takeOption();
      if (taken === undefined) return more;
      if (this.#outputBytes > limits.handshakeOutputBytes) {
        return { kind: 'end', reason: 'the client does not wait for replies to its options' };
      }
      const outcome = this.#answer(taken);
      if (outcome.kind !== 'more') return outcome;
    }
  }

  /** TLS has begun: the options that follow are the client's own. */
  secured(): void {
    this.#wantsTls = false;
    this.#isSecure = true;
  }

  #answer(asked: ClientOption): HandshakeOutcome {
    const { type, data } = asked;
    if (type === option.EXPORT_NAME && this.#wantsTls) {
      return { kind: 'end', reason: 'the client chose an export without TLS' };
    }
    if (type === option.EXPORT_NAME) return this.#exportName(data);
    if (((this.#clientFlags ?? 0) & clientFlag.FIXED_NEWSTYLE) === 0) {
      return { kind: 'end', reason: 'an option that needs fixed newstyle' };
    }
    if (type === option.ABORT) {
      this.#reply(type, optionReply.ACK);
      return { kind: 'end' };
    }
    if (data === undefined) return this.#refuse(type, optionReply.ERR_TOO_BIG, 'the option is too long');
    if (type === option.STARTTLS && (this.#wantsTls || this.#isSecure)) return this.#startTls(data);
    if (this.#wantsTls) return this.#refuse(type, optionReply.ERR_TLS_REQD, 'begin with STARTTLS');
    switch (type) {
      case option.LIST:
        return this.#list(data);
      case option.INFO:
      case option.GO:
        return this.#infoOrGo(type, data);
      case option.STRUCTURED_REPLY:
        return this.#structuredReply(data);
      case option.LIST_META_CONTEXT:
      case option.SET_META_CONTEXT:
        return this.#metaContext(type, data);
      default:
        return this.#refuse(type, optionReply.ERR_UNSUP, 'this server does not know the option');
    }
  }

  #startTls(data: Uint8Array): HandshakeOutcome {
    const type = option.STARTTLS;
    if (this.#isSecure) return this.#refuse(type, optionReply.ERR_INVALID, 'TLS has begun already');
    if (data.length > 0) return this.#refuse(type, optionReply.ERR_INVALID, 'STARTTLS has no data');
    if (this.#parser.takeRest().length > 0) {
      return { kind: 'end', reason: 'the client sent more in the clear behind STARTTLS' };
    }
    this.#reply(type, optionReply.ACK);
    return { kind: 'tls' };
  }

  #exportName(data: Uint8Array | undefined): HandshakeOutcome {
    const name = data === undefined ? undefined : decodeText(data);
    const served = name === undefined ? undefined : this.#exports.get(name);
    if (served === undefined) return { kind: 'end', reason: 'no such export' };
    if (served.minimumBlockBytes > 1)
      return { kind: 'end', reason: 'the client did not ask for block sizes' };
    const noZeroes = ((this.#clientFlags ?? 0) & clientFlag.NO_ZEROES) !== 0;
    const reply = new Uint8Array(wireBytes.exportNameReply + (noZeroes ? 0 : wireBytes.exportNameZeroes));
    const view = new DataView(reply.buffer);
    setUint64(view, 0, served.device.sizeBytes);
    view.setUint16(8, transmissionFlags(served, this.#structured));
    this.#put(reply);
    return this.#session(served);
  }

  #list(data: Uint8Array): HandshakeOutcome {
    if (data.length > 0) return this.#refuse(option.LIST, optionReply.ERR_INVALID, 'LIST has no data');
    for (const { name, description } of this.#exports.values()) {
      const nameText = utf8Encoder.encode(name);
      const descriptionText = utf8Encoder.encode(description);
      const entry = new Uint8Array(4 + nameText.length + descriptionText.length);
      new DataView(entry.buffer).setUint32(0, nameText.length);
      entry.set(nameText, 4);
      entry.set(descriptionText, 4 + nameText.length);
      this.#reply(option.LIST, optionReply.SERVER, entry);
    }
    this.#reply(option.LIST, optionReply.ACK);
    return more;
  }

  #infoOrGo(type: number, data: Uint8Array): HandshakeOutcome {
    const asked = decodeInfoRequest(data);
    if (asked === undefined)
      return this.#refuse(type, optionReply.ERR_INVALID, 'malformed request for information');
    const served = this.#exports.get(asked.name);
    if (served === undefined) return this.#refuse(type, optionReply.ERR_UNKNOWN, 'no such export');

    const exportInfo = infoReply(infoType.EXPORT, 10);
    setUint64(exportInfo.view, 2, served.device.sizeBytes);
    exportInfo.view.setUint16(10, transmissionFlags(served, this.#structured));
    this.#reply(type, optionReply.INFO, exportInfo.bytes);

    const sizes = infoReply(infoType.BLOCK_SIZE, 12);
    sizes.view.setUint32(2, served.minimumBlockBytes);
    sizes.view.setUint32(6, served.preferredBlockBytes);
    sizes.view.setUint32(10, served.maximumPayloadBytes);
    this.#reply(type, optionReply.INFO, sizes.bytes);

    if (asked.types.includes(infoType.NAME)) this.#textInfo(type, infoType.NAME, served.name);
    if (asked.types.includes(infoType.DESCRIPTION) && served.description !== '') {
      this.#textInfo(type, infoType.DESCRIPTION, served.description);
    }
    if (served.minimumBlockBytes > 1 && !asked.types.includes(infoType.BLOCK_SIZE)) {
      return this.#refuse(type, optionReply.ERR_BLOCK_SIZE_REQD, 'ask for the block sizes, and keep to them');
    }
    this.#reply(type, optionReply.ACK);
    return type === option.GO ? this.#session(served) : more;
  }

  #textInfo(type: number, info: number, text: string): void {
    const encoded = utf8Encoder.encode(text);
    const { bytes } = infoReply(info, encoded.length);
    bytes.set(encoded, 2);
    this.#reply(type, optionReply.INFO, bytes);
  }

  #structuredReply(data: Uint8Array): HandshakeOutcome {
    const type = option.STRUCTURED_REPLY;
    if (data.length > 0) return this.#refuse(type, optionReply.ERR_INVALID, 'STRUCTURED_REPLY has no data');
    this.#structured = true;
    this.#reply(type, optionReply.ACK);
    return more;
  }

  #metaContext(type: number, data: Uint8Array): HandshakeOutcome {
    const set = type === option.SET_META_CONTEXT;
    if (set) this.#chosen = undefined; // a failing SET leaves nothing selected either
    if (!this.#structured) return this.#refuse(type, optionReply.ERR_INVALID, 'needs structured replies');
    const asked = decodeMetaContextQueries(data);
    if (asked === undefined) return this.#refuse(type, optionReply.ERR_INVALID, 'malformed metadata queries');
    const served = this.#exports.get(asked.name);
    if (served === undefined) return this.#refuse(type, optionReply.ERR_UNKNOWN, 'no such export');
    const { queries } = asked;
    const chosen = served.contexts.filter(({ name }) =>
      set ? queries.includes(name) : queries.length === 0 || queries.some((query) => isListedBy(name, query)),
    );
    if (set) this.#chosen = { exportName: served.name, contexts: chosen };
    for (const { id, name } of chosen) {
      const text = utf8Encoder.encode(name);
      const context = new Uint8Array(4 + text.length);
      new DataView(context.buffer).setUint32(0, set ? id : 0);
      context.set(text, 4);
      this.#reply(type, optionReply.META_CONTEXT, context);
    }
    this.#reply(type, optionReply.ACK);
    return more;
  }

  #session(served: ServedExport): HandshakeOutcome {
    const session: NbdSession = {
      served,
      structured: this.#structured,
      contexts: this.#chosen?.exportName === served.name ? this.#chosen.contexts : [],
      rest: this.#parser.takeRest(),
    };
    return { kind: 'session', session };
  }

  #refuse(type: number, error: number, message: string): HandshakeOutcome {
    this.#reply(type, error, utf8Encoder.encode(message));
    return more;
  }

  #reply(type: number, replyType: number, data: Uint8Array = new Uint8Array(0)): void {
    const bytes = new Uint8Array(wireBytes.optionReplyHeader + data.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, magic.optionReplyHigh);
    view.setUint32(4, magic.optionReplyLow);
    view.setUint32(8, type);
    view.setUint32(12, replyType);
    view.setUint32(16, data.length);
    bytes.set(data, wireBytes.optionReplyHeader);
    this.#put(bytes);
  }

  #put(bytes: Uint8Array): void {
    this.#output.push(bytes);
    this.#outputBytes += bytes.length;
  }
}

function greeting(): Uint8Array {
  const bytes = new Uint8Array(wireBytes.greeting);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic.initHigh);
  view.setUint32(4, magic.initLow);
  view.setUint32(8, magic.optionHigh);
  view.setUint32(12, magic.optionLow);
  view.setUint16(16, handshakeFlag.FIXED_NEWSTYLE | handshakeFlag.NO_ZEROES);
  return bytes;
}

function infoReply(info: number, payloadBytes: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(2 + payloadBytes);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, info);
  return { bytes, view };
}

/** Name length and name (32 bits and text), number of types and types (16 bits each). */
function decodeInfoRequest(data: Uint8Array): { name: string; types: number[] } | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  if (data.length < 6) return undefined;
  const nameBytes = view.getUint32(0);
  if (nameBytes > data.length - 6) return undefined;
  const name = decodeText(data.subarray(4, 4 + nameBytes));
  const count = view.getUint16(4 + nameBytes);
  const typesAt = 6 + nameBytes;
  if (name === undefined || data.length !== typesAt + 2 * count) return undefined;
  const types = Array.from({ length: count }, (_, index) => view.getUint16(typesAt + 2 * index));
  return { name, types };
}

/** Name length and name, number of queries, and for each its length and text; all numbers of 32 bits. */
function decodeMetaContextQueries(data: Uint8Array): { name: string; queries: string[] } | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  let at = 0;
  const text = (): string | undefined => {
    if (data.length - at < 4) return undefined;
    const lengthBytes = view.getUint32(at);
    at += 4;
    if (data.length - at < lengthBytes) return undefined;
    at += lengthBytes;
    return decodeText(data.subarray(at - lengthBytes, at));
  };
  const name = text();
  if (name === undefined || data.length - at < 4) return undefined;
  const count = view.getUint32(at);
  at += 4;
  if (count > (data.length - at) / 4) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    const query = text();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === data.length ? { name, queries } : undefined;
}

/** A string of the protocol, or undefined where the bytes are none. */
function decodeText(bytes: Uint8Array): string | undefined {
  if (bytes.length > limits.stringBytes || bytes.includes(0)) return undefined;
  try {
    return utf8Decoder.decode(bytes);
  } catch {
    return undefined; // not UTF-8
  }
}
