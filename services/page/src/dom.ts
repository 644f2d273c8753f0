/** Elements without a framework. Text goes in as text: nothing here, or anywhere in the page, parses HTML. */

import { type Args, type Key, say } from "./i18n";

export type Child = Node | string | null | undefined | false;

export interface Props {
  class?: string;
  /** Text from the table of strings; follows the language. */
  t?: Key | [Key, Args];
  /** The same for the accessible name. */
  label?: Key | [Key, Args];
  on?: { [E in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[E]) => void };
  [attribute: string]: unknown;
}

function tell(element: Element, words: Key | [Key, Args], attribute?: string): void {
  if (typeof words === "string") say(element, words, undefined, attribute);
  else say(element, words[0], words[1], attribute);
}

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  const { class: names, t, label, on, ...attributes } = props;
  if (names) element.className = names;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const [event, listener] of Object.entries(on ?? {})) element.addEventListener(event, listener as EventListener);
  if (t) tell(element, t);
  if (label) tell(element, label, "aria-label");
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element of this id, which the page has. */
export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found as T;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line icon of 24 × 24 from path data. */
export function icon(path: string, filled = false): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", filled ? "icon filled" : "icon");
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

export const ICONS = {
  play: "M8 5.5v13l11-6.5z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  download: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 19.5h14",
  upload: "M12 16V5m0 0L7.5 9.5M12 5l4.5 4.5M5 19.5h14",
  microphone: "M12 3.5a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0v-5a3 3 0 0 1 3-3zM5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  cross: "M6 6l12 12M18 6 6 18",
  alert: "M12 8v5m0 3.2v.1M12 3.5 2.8 19.5h18.4z",
  live: "M12 12h.01M8.5 15.5a5 5 0 0 1 0-7M15.5 8.5a5 5 0 0 1 0 7M5.6 18.4a9 9 0 0 1 0-12.8M18.4 5.6a9 9 0 0 1 0 12.8",
  check: "M5 12.5 10 17.5 19.5 7",
} as const;

/** Let a slider show how far it is: style sheets cannot know. */
export function fillSlider(slider: HTMLInputElement): void {
  const low = Number(slider.min), span = Number(slider.max) - low;
  slider.style.setProperty("--done", `${span > 0 ? (100 * (Number(slider.value) - low)) / span : 0}%`);
}

/** Offer a file to be saved. */
export function save(blob: Blob, name: string): void {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
