/**
 * What is named and is no file: exports of NBD servers, disks that hold nothing, and what fails by rules. A name says it (`nbd:…`, `nbd://…`, `null-co://`,
 * `blkdebug:…`), or the options of a driver do; options are carried as a `json:` name, so that whatever is to be opened is one text.
 */
import type { NamedExport } from '@qcow2/nbd';
import { Qcow2Error } from '@qcow2/spec';
import { type BlkdebugRules, isRuleOption, rulesOfOptions } from './blkdebug-rules.ts';
import { CommandFailure } from './failures.ts';
import { isNbd, protocolOf } from './file-name.ts';
import { isJsonName, jsonElements } from './json-name.ts';
import { type ListedOption, type OptionElement, parseElements } from './option-list.ts';

export interface NbdNode extends NamedExport {
  readonly driver: 'nbd';
  /** Id of the credentials that it is encrypted with, and who the certificate has to be for. */
  readonly tlsCredentials?: string | undefined;
  readonly tlsHostname?: string | undefined;
  /** What is asked about ranges in place of what is data. */
  readonly statusContext?: string | undefined;
  readonly openTimeoutMs?: number;
  readonly reconnectDelayMs?: number;
  /** As messages name the server: `localhost:10809`, or the path of its socket. */
  readonly server: string;
}

export interface NullNode {
  readonly driver: 'null-co' | 'null-aio';
  readonly sizeBytes: number;
  readonly readZeroes: boolean;
  /** As reports show it. */
  readonly shown: string;
}

/** A file, or another thing that has a name, whose requests fail by rules. */
export interface BlkdebugNode {
  readonly driver: 'blkdebug';
  /** Name of what is below. */
  readonly image: string;
  readonly config: string | undefined;
  readonly rules: BlkdebugRules;
  readonly shown: string;
}

export type ProtocolNode = NbdNode | NullNode | BlkdebugNode;

/** Drivers of what is no file, as `file.driver` or `driver` names them. */
const protocolDrivers = new Set(['nbd', 'null-co', 'null-aio', 'blkdebug']);

export function isProtocolDriver(driver: string | undefined): driver is string {
  return driver !== undefined && protocolDrivers.has(driver);
}

/** Whether a name means such a thing. */
export function isProtocolName(name: string): boolean {
  if (isJsonName(name))
    return isProtocolDriver(jsonElements(name).find((one) => one.name === 'driver')?.text);
  const protocol = protocolOf(name);
  return protocol !== undefined && (isNbd(name) || isNullScheme(protocol) || protocol === 'blkdebug');
}

function isNullScheme(protocol: string): protocol is NullNode['driver'] {
  return protocol === 'null-co' || protocol === 'null-aio';
}

/** @throws CommandFailure: what is wrong with the name, in QEMU's words */
export async function protocolNode(name: string): Promise<ProtocolNode> {
  if (isJsonName(name)) {
    const elements = jsonElements(name);
    const driver = elements.find((one) => one.name === 'driver')?.text ?? '';
    return nodeOfOptions(
      driver,
      elements.filter((one) => one.name !== 'driver'),
    );
  }
  const protocol = protocolOf(name) ?? '';
  if (protocol === 'blkdebug') return blkdebugOfName(name);
  if (!isNullScheme(protocol)) return name.includes('://') ? await nbdOfUri(name) : nbdOfName(name);
  if (name !== `${protocol}://`) {
    throw new CommandFailure(`The only allowed filename for this driver is '${protocol}://'`);
  }
  return { driver: protocol, sizeBytes: usualNullBytes, readZeroes: false, shown: name };
}

/**
 * The options of such a driver as a name.
 * @param elements without `driver`, and without what stands before the driver's own names
 * @throws CommandFailure for what the driver does not take
 */
export function protocolNameOf(driver: string, elements: readonly OptionElement[]): string {
  nodeOfOptions(driver, elements);
  return protocolText(driver, elements);
}

/** As `info` and `map` show it, after QEMU: what can be given as a name where that is possible. */
export function shownProtocolName(node: ProtocolNode): string {
  if (node.driver !== 'nbd') return node.shown;
  const { address, exportName } = node;
  if ('path' in address)
    return `nbd+unix://${exportName === '' ? '' : `/${exportName}`}?socket=${address.path}`;
  return `nbd://${address.host}:${address.port}${exportName === '' ? '' : `/${exportName}`}`;
}

function nodeOfOptions(driver: string, elements: readonly OptionElement[]): ProtocolNode {
  if (driver === 'blkdebug') return blkdebugOfOptions(elements);
  return driver === 'nbd' ? nbdOfOptions(elements) : nullOfOptions(driver as NullNode['driver'], elements);
}

const usualNullBytes = 2 ** 30;

const nullOptions: readonly ListedOption[] = [
  { name: 'size', type: 'size', help: 'size of the disk (1G)' },
  { name: 'read-zeroes', type: 'bool', help: 'it is known to read as zeros' },
  { name: 'latency-ns', type: 'number', help: '', refused: 'not supported' },
];

function nullOfOptions(driver: NullNode['driver'], elements: readonly OptionElement[]): NullNode {
  refuseUnknown(driver, nullOptions, elements);
  const values = withoutSubject(() => parseElements(nullOptions, elements, ''));
  const size = values.get('size')?.value ?? BigInt(usualNullBytes);
  const sizeBytes = Number(size);
  if (!Number.isSafeInteger(sizeBytes)) throw new CommandFailure('Sizes of 8 PiB and more are not supported');
  // As QEMU prints such a name, in the order of its hash table.
  const texts = new Map([
    ['driver', driver as string],
    ...elements.map(({ name, text }) => [name, text] as const),
  ]);
  const members = ['read-zeroes', 'driver', 'size'].flatMap((name) => {
    const text = texts.get(name);
    return text === undefined ? [] : [`${JSON.stringify(name)}: ${JSON.stringify(text)}`];
  });
  const shown = `{${members.join(', ')}}`;
  return { driver, sizeBytes, readZeroes: values.get('read-zeroes')?.value === true, shown: `json:${shown}` };
}

/** IANA's. */
const usualNbdPort = '10809';

const nbdOptions: readonly ListedOption[] = [
  ...[
    'host',
    'port',
    'path',
    'export',
    'tls-creds',
    'tls-hostname',
    'server.type',
    'server.host',
    'server.port',
    'server.path',
    'x-dirty-bitmap',
  ].map((name): ListedOption => ({ name, type: 'string', help: '' })),
  ...['reconnect-delay', 'open-timeout'].map((name): ListedOption => ({ name, type: 'number', help: '' })),
  { name: 'server.str', type: 'string', help: '', refused: 'not supported yet' },
];

function nbdOfOptions(elements: readonly OptionElement[]): NbdNode {
  refuseUnknown('nbd', nbdOptions, elements);
  const said = (name: string): string | undefined => elements.findLast((one) => one.name === name)?.text;
  const values = withoutSubject(() => parseElements(nbdOptions, elements, ''));
  // Seconds, of which QEMU keeps 32 bits.
  const milliseconds = (name: string): number =>
    1000 * Number(BigInt.asUintN(32, BigInt(values.get(name)?.value ?? 0)));
  return {
    ...serverOfOptions(elements),
    statusContext: contextOfOptions(said('x-dirty-bitmap')),
    openTimeoutMs: milliseconds('open-timeout'),
    reconnectDelayMs: milliseconds('reconnect-delay'),
    tlsCredentials: said('tls-creds'),
    tlsHostname: said('tls-hostname'),
  };
}

/** The longest text of the protocol. */
const longestContextBytes = 4096;

function contextOfOptions(text: string | undefined): string | undefined {
  if (text === undefined || Buffer.byteLength(text) <= longestContextBytes) return text;
  throw new CommandFailure('x-dirty-bitmap query too long to send to server');
}

function serverOfOptions(elements: readonly OptionElement[]): NbdNode {
  const text = (name: string): string | undefined => elements.findLast((one) => one.name === name)?.text;
  const exportName = text('export') ?? '';
  const type = text('server.type');
  const [host, path] = [text('host'), text('path')];
  if (host !== undefined && path !== undefined) {
    throw new CommandFailure('path and host may not be used at the same time');
  }
  const isOld = host !== undefined || path !== undefined;
  if (isOld && elements.some(({ name }) => name.startsWith('server.'))) {
    throw new CommandFailure("'server' and path/host/port may not be used at the same time");
  }
  if (path !== undefined) return unixNode(path, exportName);
  if (host !== undefined) return inetNode(host, text('port') ?? usualNbdPort, exportName);
  if (!elements.some(({ name }) => name.startsWith('server.'))) {
    throw new CommandFailure('NBD server address missing');
  }
  const needed = (name: string): string => {
    const value = text(`server.${name}`);
    if (value !== undefined) return value;
    throw new CommandFailure(`Parameter '${name}' is missing`);
  };
  switch (needed('type')) {
    case 'unix':
      return unixNode(needed('path'), exportName);
    case 'inet':
      return inetNode(needed('host'), needed('port'), exportName);
    default:
      throw new CommandFailure(`Parameter 'type' does not accept value '${type}'`);
  }
}

/** `nbd:HOST:PORT` and `nbd:unix:PATH`, with `:exportname=NAME` behind it. */
function nbdOfName(name: string): NbdNode {
  const mark = ':exportname=';
  const at = name.indexOf(mark);
  const exportName = at < 0 ? '' : name.slice(at + mark.length);
  const place = name.slice('nbd:'.length, at < 0 ? undefined : at);
  if (place === '') throw new CommandFailure('NBD server address missing');
  if (place.startsWith('unix:')) return unixNode(place.slice('unix:'.length), exportName);
  const parts = /^(?:\[([^\]]+)\]|([^:]+)):([^,]+)$/.exec(place);
  if (parts === null) throw new CommandFailure(`error parsing address '${place}'`);
  const [, bracketed, plain, port = ''] = parts;
  return inetNode(bracketed ?? plain ?? '', port, exportName);
}

async function nbdOfUri(uri: string): Promise<NbdNode> {
  const { parseNbdUri } = await import('@qcow2/nbd');
  try {
    const { address, exportName, tls } = parseNbdUri(uri);
    const server = 'path' in address ? address.path : `${address.host}:${address.port}`;
    // QEMU's: every slash before the name.
    return { driver: 'nbd', address, exportName: exportName.replace(/^\/+/, ''), tls, server };
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw new CommandFailure('No valid URL specified', { cause: error });
  }
}

function unixNode(path: string, exportName: string): NbdNode {
  if (path === '') throw new CommandFailure("Failed to connect to '': Connection refused");
  return { driver: 'nbd', address: { path }, exportName, tls: false, server: path };
}

function inetNode(host: string, portText: string, exportName: string): NbdNode {
  const port = /^\d+$/.test(portText) ? Number(portText) : Number.NaN;
  const server = `${host}:${portText}`;
  if (!(port <= 0xffff)) {
    throw new CommandFailure(
      `address resolution failed for ${server}: Servname not supported for ai_socktype`,
    );
  }
  return { driver: 'nbd', address: { host, port }, exportName, tls: false, server };
}

/** `blkdebug:CONFIG:IMAGE`, where CONFIG may be empty. */
function blkdebugOfName(name: string): BlkdebugNode {
  const rest = name.slice('blkdebug:'.length);
  const colon = rest.indexOf(':');
  if (colon < 0) throw new CommandFailure('blkdebug requires both config file and image path');
  const config = rest.slice(0, colon);
  const image = rest.slice(colon + 1);
  const noRules = { inject: [], states: [] };
  return {
    driver: 'blkdebug',
    image,
    config: config === '' ? undefined : config,
    rules: noRules,
    shown: name,
  };
}

const blkdebugOptions: readonly ListedOption[] = [
  ...['config', 'x-image', 'image'].map((name): ListedOption => ({ name, type: 'string', help: '' })),
  ...['align', 'max-transfer', 'opt-write-zero', 'max-write-zero', 'opt-discard', 'max-discard'].map(
    (name): ListedOption => ({ name, type: 'string', help: '', refused: 'not supported' }),
  ),
];

function blkdebugOfOptions(elements: readonly OptionElement[]): BlkdebugNode {
  const ofRules = elements.filter(({ name }) => isRuleOption(name));
  const ofImage = elements
    .filter(({ name }) => name.startsWith('image.'))
    .map((element) => ({ ...element, name: element.name.slice('image.'.length) }));
  const own = elements.filter((element) => !ofRules.includes(element) && !element.name.startsWith('image.'));
  refuseUnknown('blkdebug', blkdebugOptions, own);
  const text = (name: string): string | undefined => own.findLast((one) => one.name === name)?.text;
  const device = text('image');
  if (device !== undefined)
    throw new CommandFailure(`Cannot find device='${device}' nor node-name='${device}'`);
  const image = ofImage.length > 0 ? childNameOf(ofImage) : text('x-image');
  if (image === undefined) throw new CommandFailure('A block device must be specified for "image"');
  const config = text('config');
  const shown =
    ofRules.length === 0 ? `blkdebug:${config ?? ''}:${image}` : protocolText('blkdebug', elements);
  return { driver: 'blkdebug', image, config, rules: rulesOfOptions(ofRules), shown };
}

/** What stands below, as a name. */
function childNameOf(elements: readonly OptionElement[]): string {
  const driver = elements.findLast(({ name }) => name === 'driver')?.text ?? 'file';
  const others = elements.filter(({ name }) => name !== 'driver');
  if (isProtocolDriver(driver)) return protocolNameOf(driver, others);
  if (driver !== 'file') throw new CommandFailure(`Unknown driver '${driver}'`);
  const more = others.find(({ name }) => name !== 'filename');
  if (more !== undefined) throw new CommandFailure(`Parameter 'image.${more.name}' is not supported yet`);
  const name = others.at(-1)?.text;
  if (name === undefined) throw new CommandFailure("The 'file' block driver requires a file name");
  return protocolOf(name) === undefined ? name : `./${name}`;
}

function protocolText(driver: string, elements: readonly OptionElement[]): string {
  const flat = Object.fromEntries(elements.map(({ name, text }) => [name, text]));
  return `json:${JSON.stringify({ driver, ...flat })}`;
}

function refuseUnknown(
  driver: string,
  options: readonly ListedOption[],
  elements: readonly OptionElement[],
): void {
  for (const { name } of elements) {
    const option = options.find((one) => one.name === name);
    if (option === undefined)
      throw new CommandFailure(`Block protocol '${driver}' doesn't support the option '${name}'`);
    if (option.refused !== undefined) throw new CommandFailure(`Parameter '${name}' is ${option.refused}`);
  }
}

/** Messages about options begin with what they are options of; here that is said by who asks. */
function withoutSubject<T>(action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error;
    throw new CommandFailure(error.message.replace(/^: /, ''), { cause: error });
  }
}

/** @throws CommandFailure for what can only be opened. What a server has is there already, and is written over. */
export function refuseCreation(name: string): void {
  const protocol = protocolOf(name) ?? '';
  if (isNbd(name)) return;
  throw new CommandFailure(
    `Protocol driver '${isJsonName(name) ? 'json' : protocol}' does not support image creation`,
  );
}
