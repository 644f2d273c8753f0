/** What went wrong, where it happened: the server's own words with the request's id, or ours where it cannot be heard. */

import { ApiError, Cancelled, Unreachable } from "./api";
import { ICONS, h, icon } from "./dom";
import type { Key } from "./i18n";

/** A problem that the page itself finds. */
export class PageError extends Error {
  constructor(readonly key: Key) {
    super(key);
  }
}

function words(error: unknown): HTMLElement[] {
  if (error instanceof ApiError) {
    const about = h("p", { class: "problem-about" }, h("span", { class: "code" }, error.code));
    if (error.requestId) about.append(" · ", h("span", { t: "requestId" }), " ", h("span", { class: "code" }, error.requestId));
    return [h("p", { lang: "en" }, error.message), about];
  }
  if (error instanceof PageError) return [h("p", { t: error.key })];
  if (error instanceof Unreachable) return [h("p", { t: "unreachable" })];
  if (error instanceof DOMException && error.name === "NotAllowedError") return [h("p", { t: "microphoneRefused" })];
  if (error instanceof DOMException && error.name === "NotFoundError") return [h("p", { t: "microphoneMissing" })];
  return [h("p", { t: "unexpected" }), h("p", { class: "problem-about code" }, String(error))];
}

/** Show a problem in `place` (a live region), with a way to try again where there is one; a cancelled call is none. */
export function showProblem(place: HTMLElement, error: unknown, retry?: () => void): void {
  if (error instanceof Cancelled) {
    place.replaceChildren();
    return;
  }
  const again = retry && (error instanceof Unreachable || (error instanceof ApiError && [408, 429, 500, 502, 503, 504].includes(error.status)));
  const button = again && h("button", { type: "button", class: "small", t: "retry", on: { click: retry } });
  place.replaceChildren(h("div", { class: "problem" }, icon(ICONS.alert), h("div", {}, ...words(error), button)));
}

export const clearProblem = (place: HTMLElement): void => place.replaceChildren();
