/** `clause`: what the specification says under an id such as HDR-008, which messages, `inspect` and tests name. */
import type { ParsedArguments } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandFailure, usageFailure } from '../failures.ts';
import { jsonText } from '../json-text.ts';
import { outputFormat, outputOption } from '../output-format.ts';
import { readClauses, type SpecificationClause } from '../specification.ts';
import { nearest } from '../suggestion.ts';

export const clause: Command = {
  operands: 'ID...',
  options: [outputOption],
  notes: `ID is a clause, or what several begin with: HDR, JRN-SLOT.

Examples:
  qcow2 clause HDR-008
  qcow2 clause L2E
  qcow2 clause --output json JRN-SLOT-018`,
  run: runClause,
};

function runClause(args: ParsedArguments, context: CommandContext): number {
  const output = outputFormat(args);
  if (args.operands.length === 0) throw usageFailure('Expecting at least one clause');
  const all = readClauses();
  const found = args.operands.flatMap((operand) => named(all, operand));
  if (output === 'json') context.out(`${jsonText(found.map(clauseJson))}\n`);
  else context.out(found.map(clauseText).join('\n'));
  return 0;
}

function named(all: ReadonlyMap<string, SpecificationClause>, operand: string): SpecificationClause[] {
  const id = operand.toUpperCase();
  const one = all.get(id);
  if (one !== undefined) return [one];
  const several = [...all.values()].filter((each) => each.id.startsWith(`${id}-`));
  if (several.length > 0) return several;
  const near = nearest(id, [...all.keys()]);
  throw new CommandFailure(`No clause '${operand}'${near === undefined ? '' : `\nDid you mean '${near}'?`}`);
}

function clauseText({ id, level, text, link }: SpecificationClause): string {
  return `${id} (${level})\n  ${text}\n  ${link}\n`;
}

function clauseJson({ id, level, text, document, link }: SpecificationClause) {
  return { clause: id, level, text, specification: document, link };
}
