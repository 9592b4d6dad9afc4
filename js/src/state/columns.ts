// Columns of numbers as they travel, turned into typed arrays.
import type { Column } from "./protocol.ts";

const KINDS = {
  "<i4": Int32Array,
  "<u2": Uint16Array,
  "<f4": Float32Array,
  "<f8": Float64Array,
  "|u1": Uint8Array,
} as const;

export type Numbers = Int32Array | Uint16Array | Float32Array | Float64Array | Uint8Array;

/** A column as a typed array of its own: a view may begin at any byte, an array may not. */
export function numbers(column: Column): Numbers {
  const { buffer, byteOffset, byteLength } = column.data;
  return new KINDS[column.dtype](buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer);
}
