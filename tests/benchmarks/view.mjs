// How fast the tree's panel is in a real browser: `node tests/benchmarks/view.mjs`.
//
// The real panel is bundled into a page of its own and given random trees, everything opened. The
// same trees are drawn the classic way, as a Graphviz picture, where `dot` is installed.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";

const SIZES = [1_000, 10_000, 50_000];
const REPEATS = 5;
/** Patience with Graphviz, in seconds. */
const PATIENCE = 60;
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

/** What runs in the page. */
const PAGE = `
import { render } from "preact";
import { TreePanel } from "${at("../../js/src/panels/trees.tsx")}";
import { ExplorerContext } from "${at("../../js/src/state/context.ts")}";
import { local } from "${at("../../js/src/state/local.ts")}";
import { connect } from "${at("../../js/src/state/synced.ts")}";
import { fakeModel, randomTree, treePayload } from "${at("../js/model.ts")}";

const SYLLABLES = "ka lo mi ver tion ing er an the pre sub ment al ic ous ble ist um or en".split(" ");
const WORDS = Array.from({ length: 4000 }, (_, word) => {
  const letters = [word % 20, Math.floor(word / 20) % 20, Math.floor(word / 400)];
  return (word % 4 ? " " : "") + letters.slice(0, 1 + (word % 3)).map((at) => SYLLABLES[at]).join("");
});
const root = document.querySelector(".sae-explorer");
let explorer, payload, drawn, count = 0;

const nextFrame = () => new Promise((done) => requestAnimationFrame(done));
/** When what was asked for is on the screen: a task after the frame that paints it. */
const painted = async () => {
  await nextFrame();
  await new Promise((done) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  });
};
const timed = async (change) => {
  await painted();
  const began = performance.now();
  change();
  // Effects may ask for a frame of their own.
  await painted();
  await painted();
  return performance.now() - began;
};
/** Mean milliseconds between frames while something changes with each. */
const frames = async (change, times = 60) => {
  await painted();
  const began = performance.now();
  for (let frame = 0; frame < times; frame += 1) {
    change(frame, times);
    await nextFrame();
  }
  return (performance.now() - began) / times;
};

Object.assign(globalThis, {
  tree(nodes) {
    drawn = randomTree(1, nodes, WORDS);
    payload = treePayload(drawn);
    count = nodes;
    const columns = ["parent", "token", "probability", "expanded", "token_id"];
    const bytes = columns.reduce((sum, name) => sum + payload[name].data.byteLength, 0);
    return bytes + new TextEncoder().encode(JSON.stringify({ ...payload })).length;
  },
  idle: () => frames(() => {}),
  async first(drawing) {
    render(null, root);
    explorer?.synced.close();
    const model = fakeModel({});
    explorer = { synced: connect(model), local: local(), root };
    explorer.local.openAbove.value = 0;
    explorer.local.drawing.value = drawing;
    render(<ExplorerContext.Provider value={explorer}><TreePanel /></ExplorerContext.Provider>, root);
    return timed(() => model.set("_tree", payload));
  },
  scroll() {
    const box = root.querySelector(".sae-outline");
    return frames((frame, times) => {
      box.scrollTop = (frame / times) * (box.scrollHeight - box.clientHeight);
    });
  },
  pan() {
    const canvas = root.querySelector("canvas");
    const { left, top } = canvas.getBoundingClientRect();
    canvas.setPointerCapture = () => {};
    const send = (kind, x, y) =>
      canvas.dispatchEvent(new PointerEvent(kind, { bubbles: true, pointerId: 1, clientX: left + x, clientY: top + y, buttons: 1 }));
    send("pointerdown", 400, 300);
    return frames((frame) => send("pointermove", 400 + 3 * (frame % 40), 300 + 5 * (frame % 20))).finally(() =>
      send("pointercancel", 400, 300),
    );
  },
  zoom(whole) {
    const canvas = root.querySelector("canvas");
    const { left, top, width, height } = canvas.getBoundingClientRect();
    if (whole) [...root.querySelectorAll("button")].find((one) => one.textContent === "Fit").click();
    const turn = (deltaY) =>
      canvas.dispatchEvent(
        new WheelEvent("wheel", { deltaY, ctrlKey: true, bubbles: true, cancelable: true, clientX: left + width / 2, clientY: top + height / 2 }),
      );
    return frames((frame, times) => turn(frame < times / 2 ? -100 : 100));
  },
  fold: () => timed(() => { explorer.local.toggled.value = new Map([[1, false]]); }),
  dot() {
    const name = (text) => JSON.stringify(text);
    const lines = drawn.map(({ parent, text }, row) =>
      parent < 0 ? "0 [label=prompt];" : row + " [label=" + name(text) + "]; " + parent + " -> " + row + ";",
    );
    return "digraph { rankdir=LR; node [shape=plaintext]; edge [arrowhead=none];\\n" + lines.join("\\n") + "}\\n";
  },
});
`;

const median = (values) => values.sort((one, other) => one - other)[values.length >> 1];
const ms = (value) => (value === null ? "-" : value.toFixed(value < 100 ? 1 : 0));

function installed(name) {
  const found = spawnSync("which", [name], { encoding: "utf8" });
  return found.status === 0 ? found.stdout.trim() : null;
}

function browserPath() {
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  const found = names.map(installed).find(Boolean) ?? chromium.executablePath();
  if (!existsSync(found)) {
    throw new Error(`No browser found; looked for ${names.join(", ")} and Playwright's own.`);
  }
  return found;
}

/** Milliseconds that Graphviz takes for a picture, or null when it does not come to an end. */
function classic(text, folder) {
  const file = join(folder, "tree.dot");
  writeFileSync(file, text);
  const began = performance.now();
  const ran = spawnSync("dot", ["-Tpng", file, "-o", join(folder, "tree.png")], {
    timeout: PATIENCE * 1000,
    stdio: "ignore",
  });
  return ran.status === 0 ? performance.now() - began : null;
}

const folder = mkdtempSync(join(tmpdir(), "sae-view-"));
const settings = { bundle: true, minify: true, write: false, logLevel: "warning" };
const [script, style] = await Promise.all([
  build({
    ...settings,
    stdin: { contents: PAGE, loader: "tsx", resolveDir: at("../..") },
    format: "iife",
    jsx: "automatic",
    jsxImportSource: "preact",
  }),
  build({ ...settings, entryPoints: [at("../../js/src/styles/index.css")] }),
]);
writeFileSync(join(folder, "page.js"), script.outputFiles[0].text);
writeFileSync(join(folder, "page.css"), style.outputFiles[0].text);
writeFileSync(
  join(folder, "page.html"),
  '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css">' +
    '<div class="sae-explorer" style="height:700px"></div><script src="page.js"></script>',
);

const browser = await chromium.launch({ executablePath: browserPath(), args: FLAGS });
try {
  const page = await browser.newPage({ viewport: { width: 1200, height: 760 } });
  page.on("pageerror", (error) => {
    throw error;
  });
  await page.goto(pathToFileURL(join(folder, "page.html")).href);
  const ask = (name, argument) =>
    page.evaluate(([own, given]) => globalThis[own](given), [name, argument]);
  const several = async (name, argument) => {
    await ask(name, argument); // the first is slower: nothing is compiled yet
    const taken = [];
    for (let turn = 0; turn < REPEATS; turn += 1) taken.push(await ask(name, argument));
    return median(taken);
  };

  console.log(
    `Chromium ${browser.version()}, ${cpus()[0].model}, ${cpus().length} cores, without a GPU; ` +
      `frames of a page at rest: ${ms(await ask("idle"))} ms. Milliseconds, everything open.\n`,
  );
  const heads = [
    "nodes",
    "outline",
    "scroll",
    "fold",
    "diagram",
    "pan",
    "zoom",
    "zoom all",
    "fold",
  ];
  const rows = [];
  const dot = installed("dot");
  for (const nodes of SIZES) {
    const bytes = await ask("tree", nodes);
    const outline = await several("first", "outline");
    const scroll = await ask("scroll");
    const foldLines = await ask("fold");
    const diagram = await several("first", "diagram");
    const pan = await ask("pan");
    const zoom = await ask("zoom", false);
    const zoomAll = await ask("zoom", true);
    const foldDrawing = await ask("fold");
    const picture = dot && classic(await ask("dot"), folder);
    rows.push([
      nodes.toLocaleString("en"),
      ...[outline, scroll, foldLines, diagram, pan, zoom, zoomAll, foldDrawing].map(ms),
      picture === null && dot ? `> ${PATIENCE} s` : dot ? `${(picture / 1000).toFixed(1)} s` : "-",
      dot ? `${picture ? "" : "> "}${Math.round((picture ?? PATIENCE * 1000) / diagram)}` : "-",
      `${(bytes / 1e6).toFixed(2)} MB`,
    ]);
  }
  const all = [[...heads, "dot", "dot / diagram", "wire"], ...rows];
  const widths = all[0].map((_, column) => Math.max(...all.map((row) => row[column].length)));
  for (const row of all) {
    console.log(row.map((cell, column) => cell.padStart(widths[column])).join("  "));
  }
  console.log(
    "\noutline, diagram: from the payload to the painted frame, median of " +
      `${REPEATS}; scroll, pan, zoom: mean time between frames; zoom all: from the whole tree in view.`,
  );
  if (dot) {
    const version = spawnSync("dot", ["-V"], { encoding: "utf8" }).stderr.trim();
    console.log(`dot: the same tree to PNG by ${version}, stopped after ${PATIENCE} s.`);
  } else {
    console.log("dot is not installed: nothing to compare with.");
  }
} finally {
  await browser.close();
  rmSync(folder, { recursive: true });
}
