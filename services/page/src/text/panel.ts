/** The text panel: type or paste, and see the words coloured by label. */

import { Cancelled, json } from "../api";
import { ICONS, byId, h, icon } from "../dom";
import { type Key, number, onLanguage, percent, t, unsay } from "../i18n";
import { modelsOf, offer, onModels } from "../models";
import { clearProblem, showProblem } from "../problem";
import { isMark, meaning, paint } from "./labels";
import { Tip } from "./tip";

export interface Span {
  text: string;
  /** Offsets count code points. */
  start: number;
  end: number;
  label: string;
  confidence: number;
}

interface Tagged {
  model: string;
  language: string;
  tokens: Span[];
  spans: Span[];
}

const SAMPLES: Record<string, string> = {
  en: "Ada Lovelace wrote the first program in London in 1843, long before anyone had built a computer that could run it.",
  zh: "1978年，北京大学的学生们在图书馆里认真地学习数学，他们相信知识能够改变中国的未来。",
  news: "The Hubble telescope has photographed two galaxies as they slowly merge, some 320 million light-years from Earth.",
};
const UNSURE = 0.8;
const AT_ONCE = 4_000; // tokens drawn before somebody asks for the rest

let shown: { text: string; result: Tagged; milliseconds: number } | null = null;
let running: AbortController | null = null;

const tip = new Tip();

export async function tag(): Promise<void> {
  const text = byId<HTMLTextAreaElement>("text").value;
  const model = byId<HTMLSelectElement>("text-model").value;
  const place = byId("text-problem");
  const button = byId<HTMLButtonElement>("tag");
  running?.abort();
  const mine = (running = new AbortController());
  clearProblem(place);
  button.setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const body = JSON.stringify(model ? { texts: [text], model } : { texts: [text] });
    const answer = await json<{ results: Tagged[] }>("tag", { body, signal: mine.signal });
    shown = { text, result: answer.results[0] as Tagged, milliseconds: performance.now() - began };
    draw();
  } catch (error) {
    if (error instanceof Cancelled) return;
    shown = null;
    draw();
    showProblem(place, error, () => void tag());
  } finally {
    if (running === mine) button.removeAttribute("aria-busy");
  }
}

function tokenElement(token: Span): HTMLElement {
  const word = h("span", { class: "word" }, token.text);
  const element = h("span", { class: token.confidence < UNSURE ? "token unsure" : "token", tabindex: -1, role: "listitem" },
    word, h("span", { class: "label", "aria-hidden": "true" }, isMark(token.label) ? "" : token.label));
  paint(element, token.label);
  element.setAttribute("aria-label", [token.text, meaning(token.label) || token.label, percent(token.confidence)].join(", "));
  return element;
}

/** The text with its tokens as elements; what lies between tokens stays as it is. */
function flow(text: string, tokens: Span[]): (Node | string)[] {
  const points = Array.from(text); // offsets count code points, JavaScript's own count UTF-16 units
  const parts: (Node | string)[] = [];
  let end = 0;
  for (const token of tokens) {
    parts.push(points.slice(end, token.start).join(""));
    const element = tokenElement(token);
    tip.describe(element, token);
    parts.push(element);
    end = token.end;
  }
  return parts;
}

function draw(): void {
  const result = byId("text-result");
  byId("text-empty").hidden = shown !== null;
  result.hidden = shown === null;
  tip.hide();
  if (!shown) return;
  const { result: { model, tokens, spans }, milliseconds } = shown;
  unsay(byId("text-about-model"), model);
  byId("text-about").textContent = [t("tokens", { n: tokens.length }), `${number(milliseconds)} ms`].join(" · ");
  drawTokens(AT_ONCE);
  drawLegend(tokens);
  drawSpans(spans);
}

function drawTokens(most: number): void {
  if (!shown) return;
  const { text, result: { tokens, model } } = shown;
  const list = byId("tokens");
  const rest = tokens.length - most;
  list.lang = modelsOf("tagger").find(({ name }) => name === model)?.languages?.[0] ?? "";
  list.replaceChildren(...flow(text, tokens.slice(0, most)));
  if (rest > 0) {
    list.append(h("button", { type: "button", class: "small", t: ["showRest", { n: rest }], on: { click: () => drawTokens(Infinity) } }));
  } else {
    list.append(Array.from(text).slice(tokens.at(-1)?.end ?? 0).join(""));
  }
  list.querySelector<HTMLElement>(".token")?.setAttribute("tabindex", "0");
}

function drawLegend(tokens: Span[]): void {
  const counts = new Map<string, number>();
  for (const { label } of tokens) counts.set(label, (counts.get(label) ?? 0) + 1);
  const entries = [...counts].sort(([, one], [, other]) => other - one).map(([label, count]) => {
    const button = h("button", { type: "button", class: "legend-item", "aria-pressed": "false", "data-label": label },
      h("span", { class: "swatch", "aria-hidden": "true" }), h("b", {}, label),
      meaning(label) && h("span", {}, meaning(label)), h("span", { class: "count" }, number(count)));
    paint(button, label);
    button.addEventListener("click", () => single(button, label));
    return button;
  });
  byId("legend").replaceChildren(...entries);
  byId("legend-unsure").hidden = !tokens.some(({ confidence }) => confidence < UNSURE);
}

/** Point out one label's words; again, and all are as before. */
function single(button: HTMLElement, label: string): void {
  const chosen = button.getAttribute("aria-pressed") !== "true";
  for (const other of byId("legend").children) other.setAttribute("aria-pressed", String(chosen && other === button));
  const list = byId("tokens");
  list.classList.toggle("singled", chosen);
  const tokens = shown?.result.tokens ?? [];
  list.querySelectorAll(".token").forEach((token, index) => token.classList.toggle("chosen", tokens[index]?.label === label));
}

function drawSpans(spans: Span[]): void {
  byId("spans-part").hidden = spans.length === 0;
  byId("spans").replaceChildren(...spans.map((span) => {
    const label = h("span", { class: "pill" }, span.label);
    paint(label, span.label);
    return h("tr", {}, h("td", {}, span.text), h("td", {}, label, " ", meaning(span.label)), h("td", { class: "number" }, percent(span.confidence)),
      h("td", { class: "number" }, `${span.start}–${span.end}`));
  }));
}

/** Arrow keys walk over the tokens, which together are one stop of the Tab key. */
function walk(event: KeyboardEvent): void {
  const list = byId("tokens");
  const tokens = [...list.querySelectorAll<HTMLElement>(".token")];
  const at = tokens.indexOf(document.activeElement as HTMLElement);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  const next = tokens[Math.min(Math.max(to, 0), tokens.length - 1)] as HTMLElement;
  (tokens[at] as HTMLElement).tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

/** One token a line, its label beside it, an empty line where the text has one. */
export function conll(text: string, tokens: Span[]): string {
  const points = Array.from(text);
  let end = 0;
  const lines = tokens.map((token) => {
    const apart = end > 0 && points.slice(end, token.start).includes("\n");
    end = token.end;
    return `${apart ? "\n" : ""}${token.text}\t${token.label}`;
  });
  return `${lines.join("\n")}\n`;
}

async function copy(button: HTMLElement, content: string): Promise<void> {
  const said = byId("text-copied");
  try {
    await navigator.clipboard.writeText(content);
    said.textContent = t("copied");
  } catch {
    said.textContent = t("notCopied");
  }
  const picture = button.querySelector(".icon");
  const done = icon(ICONS.check);
  picture?.replaceWith(done);
  setTimeout(() => {
    done.replaceWith(icon(ICONS.copy));
    said.textContent = "";
  }, 1_800);
}

function copyButton(key: Key, content: () => string): HTMLElement {
  const button: HTMLElement = h("button", { type: "button", class: "small quiet", on: { click: () => void copy(button, content()) } },
    icon(ICONS.copy), h("span", { t: key }));
  return button;
}

export function startText(): void {
  const input = byId<HTMLTextAreaElement>("text");
  byId("text-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void tag();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    void tag();
  });
  for (const button of document.querySelectorAll<HTMLElement>("[data-text-sample]")) {
    button.addEventListener("click", () => {
      input.value = SAMPLES[button.dataset["textSample"] ?? ""] ?? "";
      byId<HTMLSelectElement>("text-model").value = "";
      void tag();
    });
  }
  byId("copies").append(
    copyButton("copyConll", () => (shown ? conll(shown.text, shown.result.tokens) : "")),
    copyButton("copyJson", () => JSON.stringify(shown?.result, null, 2)),
  );
  const list = byId("tokens");
  list.addEventListener("keydown", walk);
  tip.watch(list);
  onModels(() => offer(byId<HTMLSelectElement>("text-model"), modelsOf("tagger").map(({ name }) => name), "modelByScript"));
  onLanguage(draw);
}
