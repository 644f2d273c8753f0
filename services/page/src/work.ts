/** Long work of a panel: one at a time, with its progress, its cancel button, and what went wrong. */

import { type Answer, Cancelled } from "./api";
import { byId, h } from "./dom";
import { clearProblem, showProblem } from "./problem";
import { Progress } from "./progress";
import { type Kind, type Remembered, type Report, remembered, result, submit } from "./tasks";
import { markBusy } from "./tabs";

export class Workplace {
  private running: AbortController | null = null;

  /** The panel has the elements NAME-progress and NAME-problem. */
  constructor(private readonly kind: Kind, private readonly name: string) {}

  /** Work on a file; null where that failed or was cancelled, which the panel then shows. */
  run(file: File, fields: Record<string, string>, step: string, retry: () => void): Promise<Answer | null> {
    const form = new FormData();
    for (const [field, value] of Object.entries(fields)) if (value) form.append(field, value);
    form.append(this.kind === "separate" ? "audio" : "volume", file, file.name);
    const about = { file, model: fields["model"] ?? "", step };
    return this.do(file.name, (report, signal) => submit(this.kind, form, about, report, signal), retry);
  }

  /** Go on waiting for a task that a page before this one submitted. */
  resume(task: Remembered): Promise<Answer | null> {
    return this.do(task.name, (report, signal) => result(this.kind, task, report, signal));
  }

  left(): Remembered | null {
    return remembered(this.kind);
  }

  fail(error: unknown, retry?: () => void): void {
    showProblem(byId(`${this.name}-problem`), error, retry);
  }

  clear(): void {
    clearProblem(byId(`${this.name}-problem`));
  }

  private async do(
    name: string, work: (report: Report, signal: AbortSignal) => Promise<Answer>, retry?: () => void,
  ): Promise<Answer | null> {
    this.running?.abort();
    const mine = (this.running = new AbortController());
    const progress = new Progress(name, () => mine.abort());
    const place = byId(`${this.name}-progress`);
    this.clear();
    place.replaceChildren(progress.element);
    markBusy(this.name, true);
    let last: Node[] = [];
    try {
      return await work(progress.report, mine.signal);
    } catch (error) {
      if (this.running === mine) this.fail(error, retry);
      if (error instanceof Cancelled) last = [h("p", { class: "hint note", role: "status", t: "cancelled" })];
      return null;
    } finally {
      if (this.running === mine) {
        place.replaceChildren(...last);
        markBusy(this.name, false);
      }
    }
  }
}
