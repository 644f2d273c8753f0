/** The page's two languages. An element that was told a string follows when the language changes. */

import { recall, remember } from "./storage";
import { strings } from "./strings";

export type Key = keyof typeof strings;
export type Args = Record<string, string | number>;
export type Language = "en" | "zh";

const LANGUAGES = ["en", "zh"] as const;
const listeners = new Set<() => void>();
const said = new WeakMap<Element, Map<string, [Key, Args | undefined]>>();
let current: Language = "en";

export const language = (): Language => current;

/** A string; `|` parts singular from plural, chosen by `n`. */
export function t(key: Key, args: Args = {}): string {
  const text = strings[key][LANGUAGES.indexOf(current)] as string;
  const forms = text.split("|");
  const chosen = forms.length === 2 && "n" in args && args["n"] !== 1 ? forms[1] : forms[0];
  return (chosen as string).replace(/\{(\w+)\}/g, (_, name: string) => shown(args[name] ?? ""));
}

const shown = (value: string | number): string => (typeof value === "number" ? number(value) : value);

export const number = (value: number, digits = 0): string =>
  new Intl.NumberFormat(current === "zh" ? "zh-CN" : "en", { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

export const percent = (value: number, digits = 1): string => `${number(100 * value, digits)}${current === "zh" ? "" : " "}%`;

function apply(element: Element, attribute: string, key: Key, args: Args | undefined): void {
  if (attribute === "") element.textContent = t(key, args);
  else element.setAttribute(attribute, t(key, args));
}

/** Give an element (or one of its attributes) a string that follows the language. */
export function say(element: Element, key: Key, args?: Args, attribute = ""): void {
  const all = said.get(element) ?? new Map<string, [Key, Args | undefined]>();
  said.set(element, all.set(attribute, [key, args]));
  element.setAttribute("data-said", "");
  apply(element, attribute, key, args);
}

/** The element has words of its own from now on. */
export function unsay(element: Element, text: string, attribute = ""): void {
  said.get(element)?.delete(attribute);
  if (attribute === "") element.textContent = text;
  else element.setAttribute(attribute, text);
}

/** Called after each change of language, for what is drawn or counted and not told. */
export function onLanguage(listener: () => void): void {
  listeners.add(listener);
}

export function setLanguage(chosen: Language, keep = true): void {
  current = chosen;
  if (keep) remember("convoy.language", chosen);
  document.documentElement.lang = chosen === "zh" ? "zh-Hans" : "en";
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-said]")) {
    for (const [attribute, [key, args]] of said.get(element) ?? []) apply(element, attribute, key, args);
  }
  for (const listener of listeners) listener();
}

/** Take up the strings that index.html names (`data-t`, `data-t-ATTRIBUTE`), and the visitor's language. */
export function startLanguage(): void {
  for (const element of document.querySelectorAll<HTMLElement>("*")) {
    for (const { name, value } of [...element.attributes]) {
      if (name === "data-t") say(element, value as Key);
      else if (name.startsWith("data-t-")) say(element, value as Key, undefined, name.slice("data-t-".length));
    }
  }
  const stored = recall("convoy.language");
  const preferred = navigator.languages.find((name) => /^(zh|en)\b/i.test(name)) ?? "en";
  setLanguage(stored === "zh" || stored === "en" ? stored : preferred.toLowerCase().startsWith("zh") ? "zh" : "en", false);
}
