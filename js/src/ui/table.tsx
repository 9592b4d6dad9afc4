// A table that sorts by any column and draws only the rows in view.
import { useComputed, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import { useRoom } from "./room.ts";

export interface TableColumn {
  key: string;
  title: string;
  /** What the heading means, in a sentence. */
  help: string;
  width: string;
  numeric: boolean;
  /** What row `index` is sorted by. */
  value(index: number): number | string;
  cell(index: number): ComponentChildren;
}

export interface Sorting {
  key: string;
  falling: boolean;
}

/** Height of a row, as in the stylesheet (--sae-row). */
const ROW = 24;
/** Rows drawn above and below the view. */
const MARGIN = 12;
/** Height taken before the real one is known, and where a host draws us unseen. */
const UNKNOWN = 480;

/** Numbers of the rows in the order of a column; equal ones stay in the order given. */
export function sorted(rows: number[], column: TableColumn, falling: boolean): number[] {
  const turn = falling ? -1 : 1;
  return [...rows].sort((one, other) => {
    const a = column.value(one);
    const b = column.value(other);
    return a < b ? -turn : a > b ? turn : 0;
  });
}

export function Table(props: {
  label: string;
  columns: TableColumn[];
  /** The rows in the order to show. */
  rows: number[];
  sorting: Sorting;
  onSort(sorting: Sorting): void;
  /** Shown in place of rows where there are none. */
  empty: string;
}) {
  const { columns, rows, sorting, onSort } = props;
  const box = useRef<HTMLElement>(null);
  const top = useSignal(0);
  const height = useRoom(box);
  // Redrawn when another row comes into view, not with every pixel.
  const first = useComputed(() =>
    height.value === Number.POSITIVE_INFINITY
      ? 0
      : Math.max(0, Math.floor(top.value / ROW) - MARGIN),
  ).value;
  const last = Math.min(
    rows.length,
    first + Math.ceil((height.value || UNKNOWN) / ROW) + 2 * MARGIN,
  );

  return (
    <section
      class="sae-table"
      ref={box}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by keyboard
      tabIndex={0}
      aria-label={props.label}
      onScroll={(event) => {
        top.value = event.currentTarget.scrollTop;
      }}
    >
      <table aria-label={props.label} aria-rowcount={rows.length + 1}>
        <colgroup>
          {columns.map(({ key, width }) => (
            <col key={key} style={{ width }} />
          ))}
        </colgroup>
        <thead>
          <tr aria-rowindex={1}>
            {columns.map(({ key, title, help, numeric }) => {
              const own = sorting.key === key;
              const order = sorting.falling ? "descending" : "ascending";
              return (
                <th key={key} scope="col" aria-sort={own ? order : "none"} data-numeric={numeric}>
                  <button
                    type="button"
                    title={help}
                    onClick={() => onSort({ key, falling: own && !sorting.falling })}
                  >
                    {title}
                    <span class="sae-sort" aria-hidden="true">
                      {own ? (sorting.falling ? "▾" : "▴") : ""}
                    </span>
                  </button>
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>
          {first > 0 && <Gap rows={first} columns={columns.length} />}
          {rows.slice(first, last).map((row, place) => (
            <tr key={row} aria-rowindex={first + place + 2}>
              {columns.map(({ key, numeric, cell }) => (
                <td key={key} data-numeric={numeric}>
                  {cell(row)}
                </td>
              ))}
            </tr>
          ))}
          {last < rows.length && <Gap rows={rows.length - last} columns={columns.length} />}
        </tbody>
      </table>
      {!rows.length && <p class="sae-nothing">{props.empty}</p>}
    </section>
  );
}

/** The place of rows that are not drawn. */
function Gap({ rows, columns }: { rows: number; columns: number }) {
  return (
    <tr class="sae-gap">
      <td colSpan={columns} style={{ height: rows * ROW }} />
    </tr>
  );
}
