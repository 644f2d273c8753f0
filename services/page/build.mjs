// Builds the page into dist/ (all of it is committed): scripts and styles whose names hold their digests, the page itself, the
// licences of what is bundled, and manifest.json: the SHA-256 of every source and every built file, which a test compares.
// With --check it builds elsewhere and says where dist/ differs.

import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, "dist");
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function filesBelow(folder) {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  return files.map((file) => path.relative(folder, file).split(path.sep).join("/")).sort();
}

async function digests(folder, files) {
  const pairs = files.map(async (file) => [file, sha256(await readFile(path.join(folder, file)))]);
  return Object.fromEntries(await Promise.all(pairs));
}

/** The licences of the packages whose code is in the bundle, as they ask for. */
async function licences(inputs) {
  const folder = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//;
  const packages = [...new Set(Object.keys(inputs).flatMap((file) => folder.exec(file)?.[1] ?? []))].sort();
  const texts = await Promise.all(packages.map(async (name) => {
    const about = JSON.parse(await readFile(path.join(here, name, "package.json"), "utf8"));
    const licence = (await readdir(path.join(here, name))).find((file) => /^licen[cs]e/i.test(file));
    const text = licence ? await readFile(path.join(here, name, licence), "utf8") : `Licence: ${about.license}`;
    return `${about.name} ${about.version} (${about.license})\n\n${text.trim()}\n`;
  }));
  return texts.join(`\n${"-".repeat(80)}\n\n`);
}

async function buildInto(target) {
  await mkdir(target, { recursive: true });
  const common = { absWorkingDir: here, bundle: true, minify: true, metafile: true, outdir: target, target: "es2022",
    charset: "utf8", legalComments: "none", entryNames: "[name]-[hash]", chunkNames: "[name]-[hash]", logLevel: "warning" };
  const results = await Promise.all([
    build({ ...common, entryPoints: ["src/main.ts", "src/style/main.css"], format: "esm", splitting: true,
      // NiiVue reads Zarr too, with a megabyte and a half of codecs; the page shows no Zarr.
      alias: { zarrita: "./src/volume/no-zarr.ts" } }),
    build({ ...common, entryPoints: ["src/early.ts", "src/sound/worklet.ts"], format: "iife" }),
  ]);
  const outputs = Object.assign({}, ...results.map((result) => result.metafile.outputs));
  const built = (entry, ending) => path.basename(Object.keys(outputs).find(
    (file) => outputs[file].entryPoint === entry && file.endsWith(ending)));
  let page = await readFile(path.join(here, "src/index.html"), "utf8");
  const names = { main: built("src/main.ts", ".js"), early: built("src/early.ts", ".js"),
    style: built("src/style/main.css", ".css"), worklet: built("src/sound/worklet.ts", ".js") };
  for (const [name, file] of Object.entries(names)) page = page.replaceAll(`{{${name}}}`, file);
  await writeFile(path.join(target, "index.html"), page);
  await writeFile(path.join(target, "icon.svg"), await readFile(path.join(here, "src/icon.svg")));
  const inputs = Object.assign({}, ...results.map((result) => result.metafile.inputs));
  await writeFile(path.join(target, "licences.txt"), await licences(inputs));

  const sources = ["build.mjs", "package.json", "package-lock.json", "tsconfig.json",
    ...(await filesBelow(path.join(here, "src"))).map((file) => `src/${file}`)];
  const manifest = { sources: await digests(here, sources), built: await digests(target, await filesBelow(target)) };
  await writeFile(path.join(target, "manifest.json"), JSON.stringify(manifest, null, 1) + "\n");
}

async function check() {
  const fresh = await mkdtemp(path.join(tmpdir(), "convoy-page-"));
  try {
    await buildInto(fresh);
    const expected = await digests(fresh, await filesBelow(fresh));
    const found = await digests(dist, await filesBelow(dist));
    const differing = [...new Set([...Object.keys(expected), ...Object.keys(found)])]
      .filter((file) => expected[file] !== found[file]);
    if (differing.length) {
      console.error(`services/page/dist is not what its sources build: ${differing.join(", ")}. Run \`make page\`.`);
      process.exitCode = 1;
    }
  } finally {
    await rm(fresh, { recursive: true });
  }
}

if (process.argv.includes("--check")) {
  await check();
} else {
  await rm(dist, { recursive: true, force: true });
  await buildInto(dist);
}
