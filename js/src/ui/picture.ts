// The diagram as a file: all of what is open, on white, whatever the theme.
import type { Explorer } from "../state/context.ts";
import { type File, savedAs } from "../state/synced.ts";
import { type Shown, show } from "../state/tree.ts";
import { type Layout, LETTERS, layoutOf, ROW } from "./layout.ts";
import { type Colours, type Marks, measure, meter, type Pen, paint, type Sight } from "./paint.ts";
import { readingOf } from "./reading.ts";

const FONT = "Helvetica, Arial, sans-serif";
const MARGIN = 16;
const PRINT: Colours = {
  ground: "#ffffff",
  text: "#1a1a1a",
  muted: "#5f5f5f",
  line: "#5c9fcb",
  accent: "#0063a3",
  second: "#b35c00",
  match: "#ffffff",
};
/** Points of a bitmap for each of the drawing. */
const SHARPNESS = 2;
/** What canvases hold in all browsers: points along a side, and in all. */
const LONGEST_SIDE = 16_384;
const MOST_POINTS = 120_000_000;

const UNMARKED: Marks = { selected: -1, found: new Set<number>(), tone: () => 0 };

/** The tree as it is now folded, trimmed and filtered, as a file. */
export async function pictureOf(kind: "svg" | "png", explorer: Explorer): Promise<File> {
  const { synced, local } = explorer;
  const tree = synced.tree.value;
  if (!tree) throw new Error("There is no tree to draw yet.");
  const { order, keep, tone } = readingOf(tree, explorer);
  const shown = show(tree, {
    openAbove: local.openAbove.value,
    toggled: local.toggled.value,
    trim: local.trim.value,
    quiet: local.quiet.value,
    order,
    keep,
  });
  const marks = { ...UNMARKED, tone };
  const name = savedAs(`tree.${kind}`, tree);
  if (kind === "png") {
    const data = new Uint8Array(await (await pngOf(shown, marks)).arrayBuffer());
    return { name, mime: "image/png", data };
  }
  return { name, mime: "image/svg+xml", data: new TextEncoder().encode(svgOf(shown, marks)) };
}

export function svgOf(shown: Shown, marks = UNMARKED): string {
  const { layout, sight } = whole(shown);
  const pen = new SvgPen();
  paint(pen, layout, sight, marks, PRINT, FONT);
  const { width, height } = sight;
  const title = escaped(shown.tree.label);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"`,
    ` viewBox="0 0 ${width} ${height}" role="img">\n<title>${title}</title>\n`,
    `<rect width="100%" height="100%" fill="${PRINT.ground}"/>\n`,
    ...pen.parts,
    "</svg>\n",
  ].join("");
}

export async function pngOf(shown: Shown, marks = UNMARKED): Promise<Blob> {
  const { layout, sight } = whole(shown);
  const width = Math.ceil(sight.width * SHARPNESS);
  const height = Math.ceil(sight.height * SHARPNESS);
  if (Math.max(width, height) > LONGEST_SIDE || width * height > MOST_POINTS) {
    throw new Error(
      `As PNG the picture would be ${width} × ${height} points, more than a browser can draw. ` +
        "Fold branches, raise the trim, or take the SVG.",
    );
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const blob = await new Promise<Blob | null>((resolve) => {
    if (!context) return resolve(null);
    context.fillStyle = PRINT.ground;
    context.fillRect(0, 0, width, height);
    context.scale(SHARPNESS, SHARPNESS);
    paint(context, layout, sight, marks, PRINT, FONT);
    canvas.toBlob(resolve, "image/png");
  });
  if (!blob) throw new Error("This browser could not draw the PNG. Take the SVG.");
  return blob;
}

function whole(shown: Shown): { layout: Layout; sight: Sight } {
  const layout = layoutOf(shown, measure(shown, meter(FONT)));
  const sight = {
    x: -MARGIN,
    y: -MARGIN - ROW / 2,
    zoom: 1,
    across: 1,
    width: Math.ceil(layout.right[0] + 2 * MARGIN),
    height: Math.ceil(layout.bottom[0] + ROW + 2 * MARGIN),
  };
  return { layout, sight };
}

const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
/** What XML cannot hold at all; control characters are spelled out before. */
const NOT_XML = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;

function escaped(text: string): string {
  return text.replace(NOT_XML, "\ufffd").replace(/[&<>"]/g, (sign) => ENTITIES[sign]);
}

/** A pen that writes SVG. */
class SvgPen implements Pen {
  readonly parts: string[] = [];
  strokeStyle = "";
  fillStyle = "";
  lineWidth = 1;
  globalAlpha = 1;
  font = "";
  private path: string[] = [];

  beginPath(): void {
    this.path = [];
  }
  moveTo(x: number, y: number): void {
    this.path.push(`M${short(x)} ${short(y)}`);
  }
  lineTo(x: number, y: number): void {
    this.path.push(`L${short(x)} ${short(y)}`);
  }
  bezierCurveTo(x1: number, y1: number, x2: number, y2: number, x: number, y: number): void {
    this.path.push(`C${[x1, y1, x2, y2, x, y].map(short).join(" ")}`);
  }
  stroke(): void {
    const line = `stroke="${this.strokeStyle}" stroke-width="${short(this.lineWidth)}"`;
    this.parts.push(`<path d="${this.path.join("")}" fill="none" ${line}/>\n`);
  }
  fillRect(x: number, y: number, width: number, height: number): void {
    const alpha = this.globalAlpha < 1 ? ` fill-opacity="${short(this.globalAlpha)}"` : "";
    this.box(x, y, width, height, `fill="${this.fillStyle}"${alpha}`);
  }
  strokeRect(x: number, y: number, width: number, height: number): void {
    const line = `stroke="${this.strokeStyle}" stroke-width="${short(this.lineWidth)}"`;
    this.box(x, y, width, height, `fill="none" ${line}`);
  }
  strokeText(): void {
    // The halo goes with the text.
  }
  fillText(text: string, x: number, y: number): void {
    const halo = `stroke="${this.strokeStyle}" stroke-width="${short(this.lineWidth)}"`;
    this.parts.push(
      `<text x="${short(x)}" y="${short(y)}" font-family="${FONT}" font-size="${LETTERS}" `,
      `fill="${this.fillStyle}" ${halo} stroke-linejoin="round" paint-order="stroke" `,
      `xml:space="preserve">${escaped(text)}</text>\n`,
    );
  }
  private box(x: number, y: number, width: number, height: number, style: string): void {
    const size = `width="${short(width)}" height="${short(height)}"`;
    this.parts.push(`<rect x="${short(x)}" y="${short(y)}" ${size} ${style}/>\n`);
  }
}

function short(value: number): string {
  return String(Math.round(value * 100) / 100);
}
