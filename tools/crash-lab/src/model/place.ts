/**
 * One place of the modelled storage: a ring block, a slot, a cell of the image. It has a durable content, and the
 * contents that were written since, oldest first, of which a crash keeps any one or none.
 *
 * A content is a number that stands for bytes. What was written is marked: `plain`, not under any flush; `covered` by the
 * flush under way; `lost`, which is what a failed flush leaves: it can be read, it may or may not be on storage, and no later flush
 * makes it durable (pages that the kernel believes to be clean).
 */
export type Place = readonly number[];

const plain = 0;
const covered = 1;
const lost = 2;

export function write(place: Place, content: number): Place {
  const last = place.length - 2;
  // The same bytes again, under no flush yet: nothing new can come of it.
  if (last >= 1 && place[last] === content && place[last + 1] === plain) return place;
  return simplified([...place, content, plain]);
}

/** A flush begins: it covers what is there. */
export function cover(place: Place): Place {
  return remarked(place, plain, covered);
}

/** The flush has failed. */
export function lose(place: Place): Place {
  return remarked(place, covered, lost);
}

/** The flush has completed: what it covered is durable. What was written meanwhile is as it was. */
export function complete(place: Place): Place {
  for (let at = place.length - 2; at >= 1; at -= 2) {
    if (place[at + 1] === covered) return simplified([place[at]!, ...place.slice(at + 2)]);
  }
  return place;
}

/** What a reader sees while the machine lives. */
export function visible(place: Place): number {
  return place.length === 1 ? place[0]! : place[place.length - 2]!;
}

export function isPending(place: Place): boolean {
  return place.length > 1;
}

/** What a crash may leave, each content once. */
export function outcomes(place: Place): readonly number[] {
  if (place.length === 1) return place;
  const found = [place[0]!];
  for (let at = 1; at < place.length; at += 2) if (!found.includes(place[at]!)) found.push(place[at]!);
  return found;
}

function remarked(place: Place, from: number, to: number): Place {
  if (place.length === 1) return place;
  return place.map((value, at) => (at > 0 && at % 2 === 0 && value === from ? to : value));
}

/** Writes that all bring what is durable already change nothing. */
function simplified(place: number[]): Place {
  for (let at = 1; at < place.length; at += 2) if (place[at] !== place[0]) return place;
  return [place[0]!];
}
