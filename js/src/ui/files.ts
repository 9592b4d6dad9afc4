// What leaves the widget: files to the reader's disk, text to the clipboard.
import type { File } from "../state/synced.ts";

/** Save a file the browser's way. `root` is where the link for it may stand for a moment. */
export function save(file: File, root: HTMLElement): void {
  const blob = new Blob([file.data as Uint8Array<ArrayBuffer>], { type: file.mime });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = file.name;
  link.hidden = true;
  root.append(link);
  link.click();
  link.remove();
  // The download has begun by then; the bytes need not be kept longer.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Copy text; rejects with what to do where the browser forbids it. */
export async function copy(text: string, root: HTMLElement): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages without https and frames without the permission have only the old way.
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "sae-unseen";
    root.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    if (!copied) throw new Error("The browser does not allow copying here; save the CSV instead.");
  }
}
