/** `inspect`: an image's metadata field by field, each with its place and its clause; or what stands at one host offset. */
import type { BlockDevice } from '@qcow2/block-device';
import { readImageHeader } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import type { DecodedField, DecodedStructure } from '../inspect/decoded-structure.ts';
import { type HostPlace, hostPlace } from '../inspect/host-place.ts';
import { behindHeader, firstCluster } from '../inspect/image-structures.ts';
import { hex, mappingEntries, refcountEntries, type TableEntry } from '../inspect/table-entries.ts';
import { type JsonValue, jsonText } from '../json-text.ts';
import { openImageFile, requireQcow2 } from '../open-image.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { parseSize } from '../sizes.ts';
import { readClauses, type SpecificationClause } from '../specification.ts';
import { TextBuffer } from '../text-buffer.ts';

export const inspect: Command = {
  operands: 'FILE',
  options: [
    {
      name: 'at',
      argument: 'OFFSET',
      help: 'only what the bytes at this host offset are, and who refers to them',
    },
    { name: 'tables', help: 'also every entry of the L1, L2 and refcount tables that is not zero' },
    outputOption,
    { name: 'force-share', short: 'U', help: 'also if somebody may be writing to it' },
  ],
  notes: `The file is shown as it stands, also where it is damaged; a journal is not replayed. A clause such as HDR-008 is a sentence of
the specification: on a terminal it is a link to it, in JSON each structure has one, and \`qcow2 clause\` prints it.

Examples:
  qcow2 inspect disk.qcow2
  qcow2 inspect --at 0x30000 disk.qcow2
  qcow2 inspect --tables --output json disk.qcow2`,
  run: runInspect,
};

async function runInspect(args: ParsedArguments, context: CommandContext): Promise<number> {
  const output = outputFormat(args);
  const at = hostOffsetOf(args.value('at'));
  const [name, ...extra] = args.operands;
  if (name === undefined || extra.length > 0) throw usageFailure('Expecting one image file name');
  if (at !== undefined && args.has('tables')) throw usageFailure('--at and --tables exclude each other');
  const opened = await openImageFile(name, {
    format: undefined,
    readOnly: true,
    shared: args.has('force-share'),
  });
  try {
    requireQcow2(opened, 'inspect');
    const writer = new Writer(context, output);
    if (at === undefined) return await showAll(opened.device, args.has('tables'), writer);
    const { header } = await readImageHeader(opened.device);
    writer.place(await hostPlace(opened.device, header, at));
    await writer.end();
    return 0;
  } finally {
    await opened.close();
  }
}

/** @returns 1 where the header can not be followed: what it leads to is missing then */
async function showAll(device: BlockDevice, withTables: boolean, writer: Writer): Promise<number> {
  for await (const structure of firstCluster(device)) await writer.structure(structure);
  try {
    const { header } = await readImageHeader(device);
    for await (const structure of behindHeader(device, header)) await writer.structure(structure);
    if (withTables) {
      for await (const entry of mappingEntries(device, header)) await writer.entry(entry);
      for await (const entry of refcountEntries(device, header)) await writer.entry(entry);
    }
    return 0;
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw new CommandFailure(`the header can not be followed: ${error.message}`, { cause: error });
  } finally {
    await writer.end();
  }
}

function hostOffsetOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const size = parseSize(text);
  if (typeof size === 'string' || size.bytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CommandFailure(`Invalid host offset '${text}'`);
  }
  return Number(size.bytes);
}

/** Prints as things come: as text, or as the elements of one JSON list. */
class Writer {
  readonly #context: CommandContext;
  readonly #text: TextBuffer;
  readonly #json: boolean;
  readonly #clauses: ReadonlyMap<string, SpecificationClause> = readClauses();
  #count = 0;
  #inTable = false;

  constructor(context: CommandContext, output: 'human' | 'json') {
    this.#context = context;
    this.#text = new TextBuffer((text) => context.out(text));
    this.#json = output === 'json';
  }

  async structure(structure: DecodedStructure): Promise<void> {
    if (this.#json)
      this.#element({ ...structureJson(structure), link: this.#clauses.get(structure.clause)?.link });
    else this.#add(`${this.#count++ === 0 ? '' : '\n'}${structureText(structure)}`);
    await this.#context.drained?.();
  }

  async entry(entry: TableEntry): Promise<void> {
    const { table, hostOffset, value, meaning, clause } = entry;
    if (this.#json) {
      this.#element({ table, 'host-offset': hostOffset, value: hex(value), meaning, clause });
    } else {
      if (!this.#inTable) this.#text.add('\ntables\n');
      this.#inTable = true;
      this.#add(`  ${hex(hostOffset).padEnd(12)} ${table.padEnd(14)} ${meaning}  [${clause}]\n`);
    }
    await this.#context.drained?.();
  }

  place(place: HostPlace): void {
    if (!this.#json) this.#add(placeText(place));
    else this.#text.add(`${jsonText(placeJson(place))}\n`);
    this.#count = -1;
  }

  async end(): Promise<void> {
    if (this.#json && this.#count >= 0) this.#text.add(this.#count === 0 ? '[\n]\n' : '\n]\n');
    this.#text.flush();
    await this.#context.drained?.();
  }

  /** Text for people. A terminal gets clauses as links. */
  #add(text: string): void {
    this.#text.add(
      this.#context.terminal === undefined ? text : text.replace(/\[[A-Z\d-]+-\d{3}\]/g, this.#linked),
    );
  }

  /** OSC 8: a terminal that does not know it shows the words. */
  readonly #linked = (shown: string): string => {
    const link = this.#clauses.get(shown.slice(1, -1))?.link;
    return link === undefined ? shown : `\u001b]8;;${link}\u001b\\${shown}\u001b]8;;\u001b\\`;
  };

  #element(value: JsonValue): void {
    this.#text.add(`${this.#count++ === 0 ? '[\n' : ',\n'}    ${jsonText(value, 1)}`);
  }
}

function structureText({
  title,
  hostOffset,
  lengthBytes,
  clause,
  fields,
  problem,
}: DecodedStructure): string {
  const lines = [`${title}: ${lengthBytes} bytes at ${hex(hostOffset)} [${clause}]`];
  const width = Math.max(0, ...fields.map(({ name }) => name.length));
  for (const field of fields) {
    const value = valueText(field);
    lines.push(
      `  ${hex(field.hostOffset).padEnd(10)} ${field.name.padEnd(width)}  ${value}  [${field.clause}]`,
    );
  }
  if (problem !== undefined) lines.push(`  not as it must be: ${problem.message}`);
  return `${lines.join('\n')}\n`;
}

const shownDigits = 64;

function valueText({ value, meaning, name }: DecodedField): string {
  if (typeof value === 'string') {
    if (meaning !== undefined) return meaning;
    return value.length > shownDigits ? `${value.slice(0, shownDigits)}… (${value.length / 2} bytes)` : value;
  }
  const isPattern = typeof value === 'bigint' || /^magic|Chain$|Offset$|crc|checksum/.test(name);
  const number = isPattern ? hex(value) : String(value);
  return meaning === undefined || meaning === number ? number : `${number} (${meaning})`;
}

function structureJson(structure: DecodedStructure) {
  return {
    structure: structure.title,
    'host-offset': structure.hostOffset,
    length: structure.lengthBytes,
    specification: structure.document,
    clause: structure.clause,
    fields: structure.fields.map(fieldJson),
    problem: structure.problem?.message,
  };
}

function fieldJson({ name, hostOffset, lengthBytes, value, meaning, clause }: DecodedField): JsonValue {
  // A reader of JSON may not keep 64 bits.
  const stored = typeof value === 'bigint' ? hex(value) : value;
  return { name, 'host-offset': hostOffset, length: lengthBytes, value: stored, meaning, clause };
}

function placeText(place: HostPlace): string {
  const { hostOffset, cluster, inCluster, refcount, isBehindEnd, references, fields, entry, problem } = place;
  const count = refcount === undefined ? '' : `, refcount ${refcount}`;
  const lines = [`host offset ${hex(hostOffset)}: byte ${inCluster} of cluster ${cluster}${count}`];
  if (isBehindEnd) lines.push('behind the end of the file');
  if (references.length === 0 && !isBehindEnd) lines.push('nothing refers to it: it is free, or leaked');
  for (const reference of references) lines.push(`referred to as: ${reference}`);
  for (const { structure, field } of fields) {
    lines.push(`field: ${structure.title}, ${field.name} = ${valueText(field)} [${field.clause}]`);
  }
  if (entry !== undefined) lines.push(`entry: ${entry}`);
  if (problem !== undefined) lines.push(`who refers to it can not be told: ${problem}`);
  return `${lines.join('\n')}\n`;
}

function placeJson(place: HostPlace): JsonValue {
  return {
    'host-offset': place.hostOffset,
    cluster: place.cluster,
    'byte-in-cluster': place.inCluster,
    refcount: place.refcount,
    'behind-end-of-file': place.isBehindEnd,
    references: place.references,
    fields: place.fields.map(({ structure, field }) => ({
      structure: structure.title,
      field: fieldJson(field),
    })),
    entry: place.entry,
    problem: place.problem,
  };
}
