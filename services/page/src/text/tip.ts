/** What is known of a token, shown where it is pointed at or focused. */

import { byId, h } from "../dom";
import { percent } from "../i18n";
import { meaning } from "./labels";

interface Known {
  text: string;
  start: number;
  end: number;
  label: string;
  confidence: number;
}

export class Tip {
  private readonly known = new WeakMap<Element, Known>();

  describe(element: Element, token: Known): void {
    this.known.set(element, token);
  }

  watch(list: HTMLElement): void {
    const about = (event: Event): void => this.show((event.target as Element).closest(".token"));
    for (const name of ["pointerover", "focusin"]) list.addEventListener(name, about);
    for (const name of ["pointerleave", "focusout"]) list.addEventListener(name, () => this.hide());
    addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
    addEventListener("scroll", () => this.hide(), { passive: true, capture: true });
  }

  hide(): void {
    byId("tip").hidden = true;
  }

  private show(element: Element | null): void {
    const token = element && this.known.get(element);
    if (!token) return;
    const tip = byId("tip");
    const bar = h("span", { class: "tip-bar" }, h("span"));
    (bar.firstChild as HTMLElement).style.inlineSize = `${100 * token.confidence}%`;
    tip.replaceChildren(
      h("b", {}, token.label), " ", meaning(token.label),
      h("span", { class: "tip-line" }, bar, percent(token.confidence)),
      h("span", { class: "tip-line quiet" }, h("span", { t: ["offsets", { start: token.start, end: token.end }] })));
    tip.hidden = false;
    const { left, top, bottom, width } = element.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const x = Math.min(Math.max(8, left + width / 2 - size.width / 2), document.documentElement.clientWidth - size.width - 8);
    const above = top - size.height - 6;
    tip.style.translate = `${Math.round(x)}px ${Math.round(above > 64 ? above : bottom + 6)}px`; // not below the page's head
  }
}
