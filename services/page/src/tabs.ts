/** The tabs pattern of WAI-ARIA: arrow keys move, and what is chosen stands in the address. */

import { byId } from "./dom";

const opened = new Map<string, (() => void)[]>();
const tabs = (): HTMLElement[] => [...document.querySelectorAll<HTMLElement>('[role="tab"]')];
const visible = (): string[] => tabs().filter((tab) => !tab.hidden).map((tab) => nameOf(tab));
const nameOf = (tab: HTMLElement): string => tab.id.replace(/^tab-/, "");

/** Called each time a tab is chosen. */
export function onTab(name: string, listener: () => void): void {
  opened.set(name, [...(opened.get(name) ?? []), listener]);
}

export function chooseTab(name: string, focus = false): void {
  for (const tab of tabs()) {
    const chosen = nameOf(tab) === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(`panel-${nameOf(tab)}`).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  for (const listener of opened.get(name) ?? []) listener();
}

/** Offer a tab or not; where it was the chosen one, the first is. */
export function showTab(name: string, shown: boolean): void {
  const tab = byId(`tab-${name}`);
  tab.hidden = !shown;
  if (!shown && tab.getAttribute("aria-selected") === "true") chooseTab(visible()[0] as string);
}

/** A dot on the tab, while something runs there. */
export function markBusy(name: string, busy: boolean): void {
  byId(`tab-${name}`).classList.toggle("busy", busy);
}

export function startTabs(): void {
  const names = tabs().map(nameOf);
  const fromAddress = (): string => (names.includes(location.hash.slice(1)) ? location.hash.slice(1) : (names[0] as string));
  for (const tab of tabs()) {
    tab.addEventListener("click", () => chooseTab(nameOf(tab)));
    tab.addEventListener("keydown", (event) => {
      const names = visible();
      const at = names.indexOf(nameOf(tab));
      const steps: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 };
      const to = steps[event.key];
      if (to === undefined) return;
      event.preventDefault();
      chooseTab(names[(to + names.length) % names.length] as string, true);
    });
  }
  addEventListener("hashchange", () => chooseTab(fromAddress()));
  chooseTab(fromAddress());
}
