// Binary buffers travel beside the JSON they belong to.

/** Put buffers back where the paths say. */
export function restore(
  content: unknown,
  paths: (string | number)[][],
  sent: (DataView | ArrayBuffer)[],
): void {
  paths.forEach((path, index) => {
    let place = content as Record<string | number, unknown>;
    for (const step of path.slice(0, -1)) place = place[step] as Record<string | number, unknown>;
    const buffer = sent[index];
    const last = path[path.length - 1] as string | number;
    place[last] = buffer instanceof DataView ? buffer : new DataView(buffer as ArrayBuffer);
  });
}
