/** Which bundles answer: the list itself, choices of one, and the panel that shows them all. */

import { ApiError, json } from "./api";
import { byId, h } from "./dom";
import { type Key, language, number, onLanguage, percent, t } from "./i18n";
import { onKey } from "./key";
import { clearProblem, showProblem } from "./problem";
import { showTab } from "./tabs";

export interface Model {
  name: string;
  task: string;
  licence: string;
  figures: Record<string, unknown>;
  languages?: string[];
  labels?: string[];
  sources?: string[];
  sample_rate?: number;
  causal?: boolean;
  classes?: string[];
  spacing?: number[] | null;
}

let models: Model[] = [];
const listeners = new Set<() => void>();

export const modelsOf = (task: string): Model[] => models.filter((model) => model.task === task);
export const modelNamed = (name: string): Model | undefined => models.find((model) => model.name === name);

/** Called when the list has come. */
export function onModels(listener: () => void): void {
  listeners.add(listener);
}

export async function loadModels(): Promise<void> {
  const place = byId("models-problem");
  try {
    models = (await json<{ models: Model[] }>("models")).models;
    clearProblem(place);
    // A task that no bundle is for has no tab: the service may be that of another task alone.
    for (const [task, tab] of TASKS) showTab(tab, models.length === 0 || modelsOf(task).length > 0);
    for (const listener of listeners) listener();
  } catch (error) {
    showProblem(place, error instanceof ApiError ? new ApiError(503, error.code, error.message, error.requestId) : error, () => void loadModels());
  }
  draw();
}

/** Fill a select with the names of a task's bundles; the choice stays if it still can. */
export function offer(select: HTMLSelectElement, names: string[], automatic?: Key): void {
  const before = select.value;
  const options = names.map((name) => h("option", { value: name }, name));
  if (automatic) options.unshift(h("option", { value: "", t: automatic }));
  select.replaceChildren(...options);
  if (names.includes(before)) select.value = before;
  select.disabled = options.length === 0;
}

/** Each task, its tab, and what that is called. */
const TASKS = [["tagger", "text", "tabText"], ["separator", "sound", "tabSound"], ["segmenter", "volume", "tabVolume"]] as const;

/** The figures that say most, by task, with their names and how they are shown. */
const HEADLINES: [string, Key, "share" | "decibel" | "plain" | "millimetre"][] = [
  ["accuracy", "figureAccuracy", "share"],
  ["words_f1", "figureWords", "share"],
  ["joint_f1", "figureJoint", "share"],
  ["entities.micro.f1", "figureEntities", "share"],
  ["si_snri", "figureSiSnri", "decibel"],
  ["stoi", "figureStoi", "plain"],
  ["pesq", "figurePesq", "plain"],
  ["dice", "figureDice", "plain"],
  ["surface_dice", "figureSurfaceDice", "plain"],
  ["hd95", "figureHd95", "plain"],
];

function formatted(value: number, kind: string): string {
  if (kind === "share") return percent(value);
  if (kind === "decibel") return `${number(value, 1)} dB`;
  return number(value, 2);
}

function facts(model: Model): [Key, string][] {
  const names = new Intl.DisplayNames([language() === "zh" ? "zh-Hans" : "en"], { type: "language" });
  const list = (words: string[]): string => words.join(language() === "zh" ? "、" : ", ");
  const found: [Key, string | undefined][] = [
    ["factLanguages", model.languages?.length ? list(model.languages.map((code) => names.of(code) ?? code)) : undefined],
    ["factLabels", model.labels && number(model.labels.length)],
    ["factSources", model.sources && number(model.sources.length)],
    ["factRate", model.sample_rate === undefined ? undefined : `${number(model.sample_rate)} Hz`],
    ["factLive", model.causal === undefined ? undefined : t(model.causal ? "yes" : "no")],
    ["factClasses", model.classes && list(model.classes)],
    ["factSpacing", model.spacing ? `${model.spacing.map((value) => number(value, 1)).join(" × ")} mm` : undefined],
    ["factLicence", model.licence],
  ];
  return found.filter((fact): fact is [Key, string] => fact[1] !== undefined);
}

function card(model: Model): HTMLElement {
  const figures = HEADLINES.flatMap(([name, key, kind]) => {
    const value = model.figures[name];
    return typeof value === "number" ? [h("div", { class: "headline" }, h("dd", {}, formatted(value, kind)), h("dt", { t: key }))] : [];
  });
  const rows = Object.entries(model.figures)
    .filter(([, value]) => typeof value === "number")
    .map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(Math.round(1e4 * (value as number)) / 1e4))));
  const judged = model.figures["data"];
  return h("article", { class: "card model" },
    h("h3", {}, model.name),
    figures.length > 0 && h("dl", { class: "headlines" }, ...figures),
    h("dl", { class: "facts" }, ...facts(model).flatMap(([key, value]) => [h("dt", { t: key }), h("dd", {}, value)])),
    rows.length > 0 && h("details", {}, h("summary", { t: ["allFigures", { n: rows.length }] }),
      typeof judged === "string" && h("p", { class: "hint" }, h("span", { t: "measuredOn" }), " ", h("code", {}, judged)),
      h("div", { class: "scroll", tabindex: 0, role: "region", label: "figures" }, h("table", { class: "figures" }, h("tbody", {}, ...rows)))));
}

function draw(): void {
  const groups = TASKS.flatMap(([task, , key]) => {
    const found = modelsOf(task);
    return found.length ? [h("section", { class: "group" }, h("h2", { t: key }), h("div", { class: "cards" }, ...found.map(card)))] : [];
  });
  byId("models-list").replaceChildren(...groups);
}

export function startModels(): void {
  onLanguage(draw);
  onKey(() => models.length === 0 && void loadModels());
  void loadModels();
}
