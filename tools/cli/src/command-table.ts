/** The subcommands. Each is loaded when it is called and not before: `info` does not pay for `serve`. */
import type { CommandEntry } from './command.ts';

export const commandTable: readonly CommandEntry[] = [
  {
    name: 'create',
    summary: 'make an image',
    load: async () => (await import('./commands/create.ts')).create,
  },
  {
    name: 'info',
    summary: 'say what an image is: format, sizes, features, snapshots, bitmaps, journal',
    load: async () => (await import('./commands/info.ts')).info,
  },
  {
    name: 'check',
    summary: 'look for corruptions and leaks, changing nothing',
    load: async () => (await import('./commands/check.ts')).check,
  },
  {
    name: 'inspect',
    summary: 'show an image field by field, or what stands at one host offset',
    load: async () => (await import('./commands/inspect.ts')).inspect,
  },
  {
    name: 'clause',
    summary: 'print what the specification says under an id such as HDR-008',
    load: async () => (await import('./commands/clause.ts')).clause,
  },
  {
    name: 'verify',
    summary: 'read every byte of a disk, with a checksum for each GiB',
    load: async () => (await import('./commands/verify.ts')).verify,
  },
  {
    name: 'recover',
    summary: 'copy what a damaged image still has into a new one, and say what is lost',
    load: async () => (await import('./commands/recover.ts')).recover,
  },
  {
    name: 'amend',
    summary: 'change version, size, lazy refcounts of an image, or the passphrases that open it',
    load: async () => (await import('./commands/amend.ts')).amend,
  },
  {
    name: 'snapshot',
    summary: 'list, make, apply and delete internal snapshots',
    load: async () => (await import('./commands/snapshot.ts')).snapshot,
  },
  {
    name: 'resize',
    summary: 'give the disk another size',
    load: async () => (await import('./commands/resize.ts')).resize,
  },
  {
    name: 'bitmap',
    summary: 'add, remove, clear, merge persistent bitmaps, and turn them on and off',
    load: async () => (await import('./commands/bitmap.ts')).bitmap,
  },
  {
    name: 'convert',
    summary: 'copy a disk to an image of any format',
    load: async () => (await import('./commands/convert.ts')).convert,
  },
  {
    name: 'dd',
    summary: 'copy part of a disk by blocks',
    load: async () => (await import('./commands/dd.ts')).dd,
  },
  {
    name: 'commit',
    summary: 'put what an image has into the image below it',
    load: async () => (await import('./commands/commit.ts')).commit,
  },
  {
    name: 'rebase',
    summary: 'give an image another backing file, or none',
    load: async () => (await import('./commands/rebase.ts')).rebase,
  },
  {
    name: 'bench',
    summary: 'time requests to an image',
    load: async () => (await import('./commands/bench.ts')).bench,
  },
  {
    name: 'map',
    summary: 'say where the bytes of a disk stand, file by file',
    load: async () => (await import('./commands/map.ts')).map,
  },
  {
    name: 'compare',
    summary: 'say whether two disks hold the same',
    load: async () => (await import('./commands/compare.ts')).compare,
  },
  {
    name: 'measure',
    summary: 'say how large an image will be',
    load: async () => (await import('./commands/measure.ts')).measure,
  },
  {
    name: 'serve',
    summary: 'export an image over NBD',
    load: async () => (await import('./commands/serve.ts')).serve,
  },
  {
    name: 'watch',
    summary: 'show what a server does, as it does it',
    load: async () => (await import('./commands/watch.ts')).watch,
  },
  {
    name: 'journal',
    summary: 'look at, make, remove or replay the journal of an image',
    load: async () => (await import('./commands/journal.ts')).journal,
  },
  {
    name: 'completion',
    summary: 'print what lets a shell complete commands and options',
    load: async () => (await import('./commands/completion.ts')).completion,
  },
  {
    name: 'manual',
    summary: 'print the man page',
    load: async () => (await import('./commands/manual.ts')).manual,
  },
  {
    name: 'start',
    summary: 'serve an image on this machine, making it where it is missing',
    hidden: true,
    load: async () => (await import('./commands/start.ts')).start,
  },
];
