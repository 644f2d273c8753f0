/** Light, dark, or as the system says. */

import { byId } from "./dom";
import { recall, remember } from "./storage";

const listeners = new Set<() => void>();
const system = matchMedia("(prefers-color-scheme: dark)");

/** Called when colours change, for what is drawn on a canvas. */
export function onTheme(listener: () => void): void {
  listeners.add(listener);
}

export const dark = (): boolean => {
  const chosen = document.documentElement.dataset["theme"];
  return chosen ? chosen === "dark" : system.matches;
};

/** The value of a colour of the style sheet, as canvases take it. */
export const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function startTheme(): void {
  const select = byId<HTMLSelectElement>("theme");
  const stored = recall("convoy.theme");
  select.value = stored === "light" || stored === "dark" ? stored : "system";
  const tell = (): void => listeners.forEach((listener) => listener());
  select.addEventListener("change", () => {
    const chosen = select.value;
    if (chosen === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = chosen;
    remember("convoy.theme", chosen === "system" ? null : chosen);
    tell();
  });
  system.addEventListener("change", tell);
}
