/**
 * Which names that stand in images this command follows, and to what. A name in an image is text of whoever wrote it, who may
 * be a stranger, or a guest: what it leads to is opened with the rights of whoever runs this command.
 *
 *   always              a path, beside the image that names it; `file:`; and `json:` where it says no more than a local file, its
 *                       format and the caller's secret that opens it
 *   --allow-remote      names of the network too, of those protocols that are served at all: http and https, which are read, and NBD
 *   --confine DIR       only files that lie in DIR, whatever links lead there
 *   --untrusted         none
 *
 * A data file is named by a path and nothing else: `json:` and protocols there have been a way to make a program that only
 * looks at an image open anything at all (CVE-2024-4467). Looking at an image opens none.
 *
 * A backing file is what the image says it is. Where it does not say, its bytes are looked at, as QEMU does; but they may be the guest's of a raw disk.
 * So a file that was only guessed to be an image shows its own bytes, and no name that stands in it is followed.
 */
import { realpathSync, statSync } from 'node:fs';
import { sep } from 'node:path';
import type { FileReference } from '@qcow2/driver';
import type { OptionSpec, ParsedArguments } from './arguments.ts';
import { CommandFailure } from './failures.ts';
import { besideImage, isHttp, isNbd, isRemote, localPath, protocolOf } from './file-name.ts';
import { type ImageNode, parseBackingNode } from './image-options.ts';
import { isJsonName, localFileOfJson } from './json-name.ts';

export interface FollowPolicy {
  readonly untrusted: boolean;
  readonly allowRemote: boolean;
  /** A directory, links resolved. */
  readonly confine?: string | undefined;
}

export const localFiles: FollowPolicy = { untrusted: false, allowRemote: false };

/** Of every command that opens what an image names. */
export const followOptions: readonly OptionSpec[] = [
  { name: 'untrusted', help: "the image is a stranger's: follow no name that stands in it" },
  { name: 'confine', argument: 'DIR', help: 'follow names in images only to files that lie in DIR' },
  { name: 'allow-remote', help: 'follow names in images to the network too' },
];

/** @throws CommandFailure where DIR is no directory */
export function followPolicy(args: ParsedArguments): FollowPolicy {
  const directory = args.value('confine');
  return {
    untrusted: args.has('untrusted'),
    allowRemote: args.has('allow-remote'),
    ...(directory === undefined ? {} : { confine: realDirectory(directory) }),
  };
}

export interface FollowedName {
  /** Of a local file. Under --confine with all links resolved, so that what was looked at is what is opened. */
  readonly path: string;
  /** What the name itself says of the format. */
  readonly format: string | undefined;
  /** And of what opens it. */
  readonly node: ImageNode | undefined;
}

/**
 * Where a name that stands in an image leads.
 * @param imagePath of the image that it stands in
 * @throws CommandFailure where it is not followed
 */
export function followName(
  { role, name }: Pick<FileReference, 'role' | 'name'>,
  imagePath: string,
  policy: FollowPolicy,
): FollowedName {
  if (policy.untrusted) {
    throw new CommandFailure(`'${name}' is not followed: it stands in an image that is not trusted`);
  }
  const found = role === 'data' ? dataPath(name, imagePath) : backingFile(name, imagePath, policy);
  if (found.remote === true) return remoteFile(name, found, policy);
  const path = policy.confine === undefined ? found.path : confined(found.path, policy.confine);
  // What looks like a protocol was taken for one above, where it may be one: here it is a file of that name.
  return { ...found, path: protocolOf(path) === undefined ? path : `./${path}` };
}

/** A guest of a raw disk may have written this image's header, and with it the name. */
export function guessedFailure(path: string, name: string): CommandFailure {
  return new CommandFailure(
    `'${name}' is not followed: nobody says that '${path}', which names it, is an image and not a raw disk. ` +
      `To say so: qemu-img rebase -u -F qcow2 -b '${path}' IMAGE`,
  );
}

/** A file on a server: the name says so, or that of the image, which it stands beside. */
function remoteFile(name: string, found: FollowedName, policy: FollowPolicy): FollowedName {
  if (!policy.allowRemote) {
    throw new CommandFailure(`'${name}' is not followed to the network without --allow-remote`);
  }
  if (policy.confine === undefined) return found;
  throw new CommandFailure(`'${name}' is not followed: it does not lie in '${policy.confine}'`);
}

type FoundName = FollowedName & { readonly remote?: boolean };

function dataPath(name: string, imagePath: string): FoundName {
  if (name === '') throw new CommandFailure('The image does not name its data file');
  if (protocolOf(name) !== undefined) {
    throw new CommandFailure(`'${name}' is not followed: a data file is named by a path`);
  }
  return plainly(besideImage(imagePath, name));
}

function backingFile(name: string, imagePath: string, policy: FollowPolicy): FoundName {
  if (isJsonName(name)) return localFileOfJson(name, parseBackingNode);
  if (isRemote(name) && !policy.allowRemote) {
    throw new CommandFailure(`'${name}' is not followed to the network without --allow-remote`);
  }
  const beside = besideImage(imagePath, name);
  return isHttp(beside) || isNbd(beside)
    ? plainly(beside)
    : { path: localPath(beside), format: undefined, node: undefined };
}

function plainly(path: string): FoundName {
  return { path, format: undefined, node: undefined, remote: isHttp(path) || isNbd(path) };
}

function realDirectory(directory: string): string {
  const status = statSync(directory, { throwIfNoEntry: false });
  if (status?.isDirectory() !== true) throw new CommandFailure(`--confine: '${directory}' is no directory`);
  return realpathSync(directory);
}

/** The file itself, all links followed. @throws CommandFailure where it is elsewhere, or no plain file */
function confined(path: string, directory: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  // What is not there is told by whoever opens it.
  if (status === undefined) return path;
  const real = realpathSync(path);
  const inside = real.startsWith(directory.endsWith(sep) ? directory : `${directory}${sep}`);
  if (!inside) throw new CommandFailure(`'${path}' is not followed: it does not lie in '${directory}'`);
  if (!status.isFile()) throw new CommandFailure(`'${path}' is not followed: it is no plain file`);
  return real;
}
