/**
 * Work that takes longer than a request: submit, ask, fetch, cancel. The id is remembered, so that neither a lost connection nor a
 * page loaded anew loses the work.
 */

import { type Answer, ApiError, Cancelled, Unreachable, call, json } from "./api";
import { dropFile, keepFile, recall, remember } from "./storage";

export type Kind = "separate" | "segment";

export type Phase = "sending" | "waiting" | "working" | "fetching" | "lost" | "cancelling";

/** Told what happens; `fraction` is 0 to 1 where it is known, `position` how many are before this one. */
export type Report = (phase: Phase, fraction?: number, position?: number) => void;

export interface Remembered {
  id: string;
  /** Of the file, as the visitor calls it. */
  name: string;
  model: string;
  requestId: string | null;
  /** What the page was doing, in its own words. */
  step: string;
}

interface Status {
  task_id: string;
  status: "pending" | "in_progress" | "completed" | "failed" | "canceled";
  progress?: number;
  position?: number | null;
  error?: { code: string; message: string; request_id?: string };
}

const SOONEST = 250; // milliseconds between two questions, at first
const LATEST = 2_000;
const GONE_CODES = new Set(["task_unknown"]);

const place = (kind: Kind): string => `convoy.task.${kind}`;

/** The task that a page before this one left running. */
export function remembered(kind: Kind): Remembered | null {
  try {
    const found = JSON.parse(recall(place(kind)) ?? "null") as Remembered | null;
    return found && typeof found.id === "string" ? found : null;
  } catch {
    return null;
  }
}

/** Forget this task; one that came after it stays. */
function forget(kind: Kind, task: Remembered): void {
  if (remembered(kind)?.id !== task.id) return;
  remember(place(kind), null);
  void dropFile(kind);
}

/**
 * Submit a form and wait for its result.
 *
 * @throws ApiError, Unreachable (the form did not arrive), Cancelled
 */
export async function submit(
  kind: Kind, form: FormData, about: { file: File; model: string; step: string }, report: Report, signal: AbortSignal,
): Promise<Answer> {
  report("sending", 0);
  const accepted = await call(`${kind}/submit`, { body: form, signal, sending: (fraction) => report("sending", fraction) });
  const { task_id: id } = JSON.parse(await accepted.blob.text()) as Status;
  const task = { id, name: about.file.name, model: about.model, requestId: accepted.header("X-Request-Id"), step: about.step };
  remember(place(kind), JSON.stringify(task));
  void keepFile(kind, about.file);
  return await result(kind, task, report, signal);
}

/**
 * Wait for a task's result.
 *
 * @throws ApiError, Cancelled
 */
export async function result(kind: Kind, task: Remembered, report: Report, signal: AbortSignal): Promise<Answer> {
  try {
    await finished(kind, task, report, signal);
    const path = `${kind}/get?task_id=${encodeURIComponent(task.id)}`;
    const answer = await persistent(() => call(path, { signal, receiving: (fraction) => report("fetching", fraction) }), report, signal);
    forget(kind, task);
    return answer;
  } catch (error) {
    if (error instanceof Cancelled) await cancel(kind, task, report);
    if (error instanceof Cancelled || error instanceof ApiError) forget(kind, task);
    throw error;
  }
}

async function finished(kind: Kind, task: Remembered, report: Report, signal: AbortSignal): Promise<void> {
  const path = `${kind}/status?task_id=${encodeURIComponent(task.id)}`;
  for (let wait = SOONEST; ; wait = Math.min(1.2 * wait, LATEST)) {
    const state = await persistent(() => json<Status>(path, { signal }), report, signal);
    if (state.status === "completed") return;
    if (state.status === "canceled") throw new Cancelled();
    if (state.status === "failed") {
      const { code, message, request_id } = state.error ?? { code: "failed", message: "The task failed." };
      throw new ApiError(422, code, message, request_id ?? task.requestId);
    }
    if (state.status === "pending") report("waiting", undefined, state.position ?? undefined);
    else report("working", state.progress);
    await pause(wait, signal);
  }
}

/** Ask until somebody answers: the server may be starting again, or the network be gone for a while. */
async function persistent<T>(ask: () => Promise<T>, report: Report, signal: AbortSignal): Promise<T> {
  for (let wait = SOONEST; ; wait = Math.min(1.5 * wait, 2 * LATEST)) {
    try {
      return await ask();
    } catch (error) {
      const passing = error instanceof Unreachable || (error instanceof ApiError && PASSING.has(error.status) && !GONE_CODES.has(error.code));
      if (!passing) throw error;
      report("lost");
      await pause(wait, signal);
    }
  }
}

const PASSING = new Set([408, 429, 502, 503, 504]);

async function cancel(kind: Kind, task: Remembered, report: Report): Promise<void> {
  report("cancelling");
  try {
    await call(`${kind}/cancel?task_id=${encodeURIComponent(task.id)}`, { method: "PUT" });
  } catch {
    // It has ended, or the server has: either way nobody waits for it any more.
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new Cancelled());
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
