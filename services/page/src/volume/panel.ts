/** The volume panel: a scan, and what was found in it. */

import { type Answer, call } from "../api";
import { ICONS, byId, fillSlider, h, icon, save } from "../dom";
import { sampleFile, startDrop } from "../drop";
import { number, onLanguage, say, unsay } from "../i18n";
import { modelNamed, modelsOf, offer, onModels } from "../models";
import { keptFile } from "../storage";
import { onTab } from "../tabs";
import type { Remembered } from "../tasks";
import { Workplace } from "../work";
import { kindOf } from "./kinds";
import { type Class, type Counts, type Place, type View, Viewer, countsOf } from "./viewer";

// Okabe and Ito 2008, as in the pictures that the server draws.
const COLOURS: [number, number, number][] = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
];
const AXES = ["x", "y", "z"] as const;

const work = new Workplace("segment", "volume");
let viewer: Viewer | null = null;
let classes: Class[] = [];
let counted: Counts | null = null;
let last: Place | null = null;
let picture: string | null = null;

const input = (id: string): HTMLInputElement => byId<HTMLInputElement>(id);

function classesOf(model: string): Class[] {
  return (modelNamed(model)?.classes ?? []).map((name, label) => ({
    label, name, visible: true, colour: label === 0 ? [0, 0, 0] : (COLOURS[(label - 1) % COLOURS.length] as [number, number, number]),
  }));
}

/** The viewer, if this browser can draw in three dimensions. */
async function opened(): Promise<Viewer | null> {
  if (viewer) return viewer;
  if (!document.createElement("canvas").getContext("webgl2")) return null;
  byId("volume-view").hidden = false;
  viewer = await Viewer.on(byId("volume-canvas") as HTMLElement as HTMLCanvasElement, moved);
  viewer.view(input("volume-plane").value as View);
  return viewer;
}

/** Show a scan before anybody has looked at it; false where only the server can draw it. */
async function showScan(file: File): Promise<boolean> {
  const kind = await kindOf(file);
  if (kind === "there" || kind === "unknown") {
    viewer?.clear();
    byId("volume-view").hidden = true;
    return kind === "unknown"; // the server says what is wrong with it
  }
  try {
    const place = await opened();
    if (!place) return false;
    byId("volume-view").hidden = false;
    await place.show(new File([file], `scan${kind}`)); // NiiVue goes by the name
    place.redraw();
    return true;
  } catch {
    byId("volume-view").hidden = true;
    return false; // it is drawn by the server, if it can be drawn at all
  }
}

function reset(): void {
  classes = [];
  counted = null;
  if (picture) URL.revokeObjectURL(picture);
  picture = null;
  byId("volume-picture-part").hidden = true;
  byId("volume-result").hidden = true;
  byId("volume-notes").replaceChildren();
  byId("volume-downloads").replaceChildren();
}

async function segment(file: File): Promise<void> {
  const model = byId<HTMLSelectElement>("volume-model").value;
  reset();
  const spacing = input("volume-spacing").value.trim();
  const here = await showScan(file);
  const fields = { model, spacing, output: "labels", format: here ? "same" : "nii.gz" };
  const answer = await work.run(file, fields, here ? "labels" : "labels, then picture", () => void segment(file));
  if (answer) await finish(answer, file, { model, spacing, here });
}

async function finish(answer: Answer, file: File | null, about: { model: string; spacing: string; here: boolean }): Promise<void> {
  await showLabels(answer, about.model, about.here || file === null, file?.name ?? "scan");
  if (!file || about.here) return;
  const drawn = await work.run(file, { model: about.model, spacing: about.spacing, output: "preview" }, "picture", () => void segment(file));
  if (drawn) showPicture(drawn);
}

/** The name that the server gave its answer. */
function nameOf(answer: Answer, otherwise: string): string {
  const said = answer.header("Content-Disposition") ?? "";
  const coded = /filename\*=utf-8''([^;]+)/i.exec(said)?.[1];
  return coded ? decodeURIComponent(coded) : (/filename="([^"]*)"/i.exec(said)?.[1] ?? otherwise);
}

async function showLabels(answer: Answer, model: string, drawn: boolean, scan: string): Promise<void> {
  const name = nameOf(answer, `${scan}-labels.nii.gz`);
  byId("volume-downloads").replaceChildren(
    h("button", { type: "button", class: "small", on: { click: () => save(answer.blob, name) } }, icon(ICONS.download), h("span", { t: "downloadLabels" })));
  byId("volume-result").hidden = false;
  unsay(byId("volume-about-model"), model);
  const notes = JSON.parse(answer.header("X-Volume-Notes") ?? "[]") as string[];
  byId("volume-notes").replaceChildren(...notes.map((note) => h("li", { lang: "en" }, note)));
  classes = classesOf(model);
  const file = new File([answer.blob], name);
  const place = drawn ? await opened() : null;
  byId("volume-view").hidden = !place;
  byId("volume-opacity-part").hidden = !place;
  if (place) {
    await place.overlay(file, classes, Number(input("volume-opacity").value));
    place.redraw();
    counted = place.counts();
  } else {
    counted = await countsOf(file);
  }
  drawClasses();
}

function showPicture(answer: Answer): void {
  picture = URL.createObjectURL(answer.blob);
  byId("volume-view").hidden = true;
  byId("volume-picture-part").hidden = false;
  byId<HTMLImageElement>("volume-picture").src = picture;
  const { blob } = answer;
  byId("volume-downloads").append(
    h("button", { type: "button", class: "small quiet", on: { click: () => save(blob, "preview.png") } }, icon(ICONS.download), h("span", { t: "downloadPicture" })));
}

function drawClasses(): void {
  if (!counted) return;
  const { voxels, millilitres } = counted;
  const rows = classes.filter(({ label }) => label > 0).map((each) => {
    const count = voxels.get(each.label) ?? 0;
    const box = h("input", { type: "checkbox", id: `class-${each.label}`, hidden: byId("volume-view").hidden });
    box.checked = each.visible;
    box.addEventListener("change", () => {
      each.visible = box.checked;
      viewer?.recolour(classes);
    });
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = `rgb(${each.colour.join(" ")})`;
    return h("tr", {}, h("th", { scope: "row" }, h("label", { class: "class-name" }, box, swatch, h("span", {}, each.name))),
      h("td", { class: "number" }, h("span", { t: ["millilitres", { n: number(count * millilitres, 2) }] })), h("td", { class: "number quiet" }, number(count)));
  });
  byId("volume-classes").replaceChildren(...rows);
}

function moved(place: Place): void {
  last = place;
  AXES.forEach((axis, index) => {
    const slider = input(`cross-${axis}`);
    slider.max = String(place.size[index]! - 1);
    slider.value = String(place.voxel[index]);
    fillSlider(slider);
    slider.setAttribute("aria-valuetext", `${place.voxel[index]! + 1} / ${place.size[index]}`);
    byId(`cross-${axis}-value`).textContent = number(place.voxel[index]! + 1);
  });
  const [value, label] = place.values;
  byId("volume-mm").textContent = `${place.millimetres.map((each) => number(each, 1)).join(", ")} mm`;
  byId("volume-value").textContent = value === undefined ? "" : number(value, Number.isInteger(value) ? 0 : 2);
  const found = label === undefined ? undefined : classes.find((each) => each.label === Math.round(label));
  const said = byId("volume-here");
  if (!found) unsay(said, "");
  else if (found.label === 0) say(said, "background");
  else unsay(said, found.name);
}

/** The bundle that the sample is for. */
const fittingSample = (): string | undefined => modelsOf("segmenter").find(({ name }) => name.includes("hippocampus"))?.name;

async function sample(): Promise<void> {
  work.clear();
  const fitting = fittingSample();
  if (fitting) byId<HTMLSelectElement>("volume-model").value = fitting;
  try {
    await segment(await sampleFile("hippocampus-mni152.nii.gz", async (path) => (await call(path)).blob));
  } catch (error) {
    work.fail(error, () => void sample());
  }
}

async function resume(task: Remembered): Promise<void> {
  const file = await keptFile("segment");
  const here = file ? await showScan(file) : true;
  const answer = await work.resume(task);
  if (!answer) return;
  if (task.step === "picture") showPicture(answer);
  else await finish(answer, file, { model: task.model, spacing: "", here });
}

export function startVolume(): void {
  startDrop(byId("volume-drop"), input("volume-file"), (file) => void segment(file));
  byId("volume-sample").addEventListener("click", () => void sample());
  const opacity = input("volume-opacity");
  fillSlider(opacity);
  opacity.addEventListener("input", () => {
    fillSlider(opacity);
    viewer?.opacity(Number(opacity.value));
  });
  input("volume-plane").addEventListener("change", () => viewer?.view(input("volume-plane").value as View));
  AXES.forEach((axis) => input(`cross-${axis}`).addEventListener("input", () =>
    viewer?.move(AXES.map((each) => Number(input(`cross-${each}`).value)) as [number, number, number])));
  onTab("volume", () => viewer?.redraw());
  onLanguage(() => {
    drawClasses();
    if (last) moved(last);
  });
  let task = work.left();
  onModels(() => {
    const fitting = fittingSample();
    const names = modelsOf("segmenter").map(({ name }) => name).sort((one, other) => Number(other === fitting) - Number(one === fitting));
    offer(byId<HTMLSelectElement>("volume-model"), names);
    if (task) void resume(task);
    task = null;
  });
}
