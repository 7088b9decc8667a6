/**
 * Plants a mutant: from now on, modules that this thread loads have the mutant's text in place of their own. The
 * sources on disk never change, and other threads load what stands there.
 *
 * To be called before anything of the driver is imported, so whoever calls it imports the rest dynamically.
 */
import { registerHooks } from 'node:module';
import { InvariantError } from '@qcow2/spec';
import type { CodeMutant } from './code-mutants.ts';

export interface PlantedMutant {
  /** @throws INVARIANT where a file of the mutant has not been loaded */
  expectPlanted(): void;
}

export function plantMutant(mutant: CodeMutant): PlantedMutant {
  const changedFiles = new Set<string>();
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const edits = mutant.edits.filter(({ file }) => url.endsWith(`/${file}`));
      if (edits.length === 0) return loaded;
      let text = String(
        loaded.source instanceof Uint8Array ? new TextDecoder().decode(loaded.source) : loaded.source,
      );
      for (const edit of edits) {
        text = mutated(text, edit.find, edit.replace, edit.file);
        changedFiles.add(edit.file);
      }
      return { ...loaded, source: text };
    },
  });
  return {
    expectPlanted: () => {
      for (const { file } of mutant.edits) {
        if (!changedFiles.has(file)) throw new InvariantError('a mutant was not planted', { value: file });
      }
    },
  };
}

/** @throws INVARIANT where the text to be replaced does not stand there exactly once */
export function mutated(text: string, find: string, replace: string, file: string): string {
  const parts = text.split(find);
  if (parts.length !== 2) {
    throw new InvariantError(`a mutant's text stands ${parts.length - 1} times in ${file}, not once`, {
      value: find,
    });
  }
  return parts.join(replace);
}
