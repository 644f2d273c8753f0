/** The state of long work: a bar, a line of words, and a button that stops it. */

import { ICONS, h, icon } from "./dom";
import { percent, say, t } from "./i18n";
import type { Report } from "./tasks";

const KEYS = {
  sending: "phaseSending", waiting: "phaseWaiting", working: "phaseWorking", fetching: "phaseFetching", lost: "phaseLost", cancelling: "phaseCancelling",
} as const;

export class Progress {
  readonly element: HTMLElement;
  private readonly bar = h("div", { class: "bar-fill" });
  private readonly track = h("div", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, this.bar);
  private readonly words = h("span");
  private readonly figure = h("span", { class: "figure", "aria-hidden": "true" });
  private readonly cancel: HTMLButtonElement;

  /** @param name of the file, shown before the words. */
  constructor(name: string, stop: () => void) {
    this.cancel = h("button", { type: "button", class: "small quiet", on: { click: stop } }, icon(ICONS.cross), h("span", { t: "cancel" }));
    const line = h("div", { class: "progress-line" }, h("span", { class: "file-name" }, name), h("span", { role: "status" }, this.words), this.figure);
    this.element = h("div", { class: "progress" }, h("div", { class: "progress-main" }, line, this.track), this.cancel);
    say(this.track, "progress", undefined, "aria-label");
  }

  readonly report: Report = (phase, fraction, position) => {
    const [key, args] = position ? (["phaseQueued", { n: position }] as const) : ([KEYS[phase], {}] as const);
    if (this.words.textContent !== t(key, args)) say(this.words, key, args); // a live region speaks when it changes
    const known = fraction !== undefined;
    this.track.classList.toggle("unknown", !known);
    this.track.dataset["phase"] = phase;
    this.bar.style.inlineSize = known ? `${100 * fraction}%` : "";
    this.figure.textContent = known ? percent(fraction, 0) : "";
    if (known) this.track.setAttribute("aria-valuenow", String(Math.round(100 * fraction)));
    else this.track.removeAttribute("aria-valuenow");
    this.cancel.disabled = phase === "cancelling";
  };
}
