// Builds the bundle that the Python package ships: widget.js and widget.css, and page.js, the host
// of an exported page. Prints what they weigh; the widget's budget is checked by the tests.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = at("../python/sae_explorer/static/");

const shared = {
  bundle: true,
  minify: true,
  legalComments: "none",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
};

await Promise.all([
  build({
    ...shared,
    entryPoints: [at("src/widget.tsx")],
    outfile: `${out}widget.js`,
    format: "esm",
  }),
  build({ ...shared, entryPoints: [at("src/styles/index.css")], outfile: `${out}widget.css` }),
  build({
    ...shared,
    entryPoints: [at("src/host/page.ts")],
    outfile: `${out}page.js`,
    format: "iife",
  }),
]);

for (const name of ["widget.js", "widget.css", "page.js"]) {
  const bytes = readFileSync(out + name);
  console.log(`${name}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
