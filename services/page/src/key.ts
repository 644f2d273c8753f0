/** The API key, where the server asks for one: kept until the browser tab closes, sent with every call. */

import { byId } from "./dom";
import { recall, remember } from "./storage";

const PLACE = "convoy.key";
const listeners = new Set<() => void>();
let asking: Promise<boolean> | null = null;

const key = (): string | null => recall(PLACE, "session");

/** Called when the visitor has given a key. */
export function onKey(listener: () => void): void {
  listeners.add(listener);
}

export function authorization(): string | null {
  const known = key();
  return known ? `Bearer ${known}` : null;
}

/** Subprotocols of a WebSocket: browsers send no headers of ours with it, and an address would end up in logs. */
export function subprotocols(): string[] {
  const known = key();
  if (!known) return [];
  const bytes = String.fromCharCode(...new TextEncoder().encode(known));
  const coded = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return ["convoy", `convoy.key.${coded}`];
}

/** Whether the visitor gave a key. Calls that fail at the same time share one question. */
export function askForKey(): Promise<boolean> {
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

function ask(): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>("key-dialog");
  const input = byId<HTMLInputElement>("key-input");
  byId("key-wrong").hidden = key() === null;
  input.value = "";
  dialog.returnValue = "";
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "ok" ? input.value.trim() : "";
        if (given) remember(PLACE, given, "session");
        resolve(given !== "");
        if (given) for (const listener of listeners) listener();
      },
      { once: true },
    );
    dialog.showModal();
    input.focus();
  });
}
