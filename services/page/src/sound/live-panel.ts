/** The part of the sound panel that separates what the microphone hears now. */

import { Unreachable, call } from "../api";
import { byId, h } from "../dom";
import { number, say } from "../i18n";
import { modelNamed, modelsOf, offer, onModels } from "../models";
import { clearProblem, showProblem } from "../problem";
import { markBusy, onTab } from "../tabs";
import { Live, type LiveEnd } from "./live";
import { clock, pauseTracks, showTracks } from "./tracks";

let live: Live | null = null;
let meters: HTMLElement[] = [];
let began = 0;
let ticking = 0;

function mode(name: "file" | "live"): void {
  byId("sound-file-part").hidden = name !== "file";
  byId("sound-live-part").hidden = name !== "live";
  pauseTracks();
  if (name === "file") live?.stop();
}

function meter(index: number): HTMLElement {
  const bar = h("div", { class: "meter", "aria-hidden": "true" }, h("span"));
  const name = index === 0 ? h("span", { t: "microphone" }) : h("span", { t: ["voice", { n: index }] });
  const item = h("li", { class: "meter-line" }, h("span", { class: "swatch", "aria-hidden": "true" }), name, bar);
  item.style.setProperty("--paint", `var(--voice-${index})`);
  if (index > 0) {
    const button = h("button", { type: "button", class: "small toggle", "aria-pressed": "false", t: "hear" });
    button.addEventListener("click", () => {
      const heard = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(heard));
      live?.hear(index - 1, heard);
    });
    item.append(button);
  }
  meters[index] = bar;
  return item;
}

async function start(done: (end: LiveEnd, model: string) => void): Promise<void> {
  const problem = byId("live-problem");
  const model = byId<HTMLSelectElement>("live-model").value;
  let answering = model;
  clearProblem(problem);
  showTracks([]);
  busy(true);
  say(byId("live-state"), "liveConnecting");
  try {
    await call("models"); // a WebSocket that is refused for want of a key cannot say so
    live = await Live.start(model, modelNamed(model)?.sample_rate ?? 8_000, {
      started: (name, voices, delay) => {
        answering = name;
        began = performance.now();
        byId("meters").replaceChildren(...Array.from({ length: voices + 1 }, (_, index) => meter(index)));
        say(byId("live-state"), "liveOn", { model: name, delay: number(1000 * delay, 0) });
        ticking = window.setInterval(() => (byId("live-time").textContent = clock((performance.now() - began) / 1000)), 100);
      },
      levels: (levels) => levels.forEach((level, index) => level !== null && meters[index]?.style.setProperty("--level", String(level))),
    });
    const end = await live.ended;
    if (end.mixture.channels[0]?.length) done(end, answering);
    if (!end.complete) throw new Unreachable();
  } catch (error) {
    showProblem(problem, error);
  } finally {
    live = null;
    busy(false);
  }
}

function busy(on: boolean): void {
  clearInterval(ticking);
  meters = [];
  byId("live-start").hidden = on;
  byId("live-stop").hidden = !on;
  byId("live-on").hidden = !on;
  byId("live-time").textContent = "";
  if (!on) byId("meters").replaceChildren();
  markBusy("sound", on);
  (on ? byId("live-stop") : byId("live-start")).focus();
}

export function startLive(done: (end: LiveEnd, model: string) => void): void {
  for (const radio of document.querySelectorAll<HTMLInputElement>('input[name="sound-mode"]')) {
    radio.addEventListener("change", () => radio.checked && mode(radio.value as "file" | "live"));
  }
  byId("live-start").addEventListener("click", () => void start(done));
  byId("live-stop").addEventListener("click", () => live?.stop());
  for (const name of ["text", "volume", "models"]) onTab(name, pauseTracks);
  onModels(() => {
    const causal = modelsOf("separator").filter((model) => model.causal);
    offer(byId<HTMLSelectElement>("live-model"), causal.map(({ name }) => name));
    byId("live-none").hidden = causal.length > 0;
    byId<HTMLButtonElement>("live-start").disabled = causal.length === 0;
  });
}
