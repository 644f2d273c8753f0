/** The mixture and its voices, one below the other: seen, heard together or alone, and downloaded. */

import { ICONS, byId, fillSlider, h, icon, save } from "../dom";
import { type Args, type Key, number, onLanguage, say, t } from "../i18n";
import { onTheme } from "../theme";
import { drawSpectrogram, drawWaveform } from "./draw";
import { Player } from "./player";
import { type Pcm, mono, writeWav } from "./wav";

export interface Track {
  key: Key;
  args?: Args;
  pcm: Pcm;
  /** What the file is called when it is downloaded. */
  file: string;
  /** Whether it is heard before somebody says otherwise. */
  audible: boolean;
}

interface Lane {
  track: Track;
  samples: Float32Array<ArrayBuffer>;
  solo: boolean;
  mute: boolean;
  wave: HTMLCanvasElement;
  spectrogram: HTMLCanvasElement;
  view: HTMLElement;
  soloButton: HTMLButtonElement;
  muteButton: HTMLButtonElement;
  element: HTMLElement;
}

let lanes: Lane[] = [];
let player: Player | null = null;

export const clock = (seconds: number): string => {
  const tenths = Math.floor(10 * seconds);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
};

/** Show these tracks in place of those before; none, and the place is hidden. */
export function showTracks(tracks: Track[]): void {
  player?.close();
  player = tracks.length ? new Player(tracks.map(({ pcm }) => pcm), move) : null;
  lanes = tracks.map(lane);
  byId("tracks").replaceChildren(...lanes.map(({ element }) => element));
  byId("player").hidden = tracks.length === 0;
  const seek = byId<HTMLInputElement>("seek");
  seek.max = String(player?.duration ?? 0);
  seek.step = "0.05";
  hear();
  drawAll();
  move();
}

/** Stop the sound, when its panel is left. */
export const pauseTracks = (): void => player?.pause();

const PAINTS = ["--voice-0", "--voice-1", "--voice-2", "--voice-3", "--voice-4"];

function lane(track: Track, index: number): Lane {
  const wave = h("canvas", { class: "wave", "aria-hidden": "true" });
  const spectrogram = h("canvas", { class: "spectrogram", "aria-hidden": "true" });
  const view = h("div", { class: "lane-view" }, wave, spectrogram, h("div", { class: "playhead" }));
  const soloButton = h("button", { type: "button", class: "small toggle", "aria-pressed": "false", t: "solo" });
  const muteButton = h("button", { type: "button", class: "small toggle", "aria-pressed": "false", t: "mute" });
  const download = h("button", { type: "button", class: "small quiet", on: { click: () => save(writeWav(track.pcm), track.file) } },
    icon(ICONS.download), h("span", { class: "wide-only", t: "wav" }));
  say(download, "downloadWav", undefined, "aria-label");
  const name: [Key, Args] = [track.key, track.args ?? {}];
  const head = h("div", { class: "lane-head" }, h("span", { class: "swatch", "aria-hidden": "true" }), h("h2", { t: name }),
    h("div", { class: "lane-buttons" }, soloButton, muteButton, download));
  const element = h("li", { class: "lane" }, head, view);
  element.style.setProperty("--paint", `var(${PAINTS[index % PAINTS.length]})`);
  const made: Lane = { track, samples: mono(track.pcm), solo: false, mute: !track.audible, wave, spectrogram, view, soloButton, muteButton, element };
  soloButton.addEventListener("click", () => {
    made.solo = !made.solo;
    hear();
  });
  muteButton.addEventListener("click", () => {
    made.mute = !made.mute;
    hear();
  });
  seekable(view);
  return made;
}

/** Point anywhere in a picture to hear it from there; the slider does the same for the keyboard. */
function seekable(view: HTMLElement): void {
  const to = (event: PointerEvent): void => {
    const { left, width } = view.getBoundingClientRect();
    player?.seek(((event.clientX - left) / width) * player.duration);
  };
  view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    view.setPointerCapture(event.pointerId);
    to(event);
  });
  view.addEventListener("pointermove", (event) => view.hasPointerCapture(event.pointerId) && to(event));
}

/** Where anything is solo, only that is heard; else all that is not mute. */
function hear(): void {
  const alone = lanes.some(({ solo }) => solo);
  lanes.forEach((each, index) => {
    const heard = alone ? each.solo : !each.mute;
    player?.level(index, heard ? 1 : 0);
    each.soloButton.setAttribute("aria-pressed", String(each.solo));
    each.muteButton.setAttribute("aria-pressed", String(each.mute));
    each.element.classList.toggle("silent", !heard);
  });
}

function move(): void {
  const position = player?.position ?? 0, duration = player?.duration ?? 0;
  const seek = byId<HTMLInputElement>("seek");
  seek.value = String(position);
  seek.setAttribute("aria-valuetext", t("seconds", { n: number(position, 1) }));
  fillSlider(seek);
  byId("time").textContent = `${clock(position)} / ${clock(duration)}`;
  for (const { view } of lanes) view.style.setProperty("--at", String(duration ? position / duration : 0));
  const button = byId("play");
  const state = player?.playing ? "pause" : "play";
  if (button.dataset["state"] === state) return;
  button.dataset["state"] = state;
  button.replaceChildren(icon(ICONS[state], true));
  button.setAttribute("aria-label", t(state));
}

function drawAll(): void {
  // One scale for all, so that a quiet voice looks quiet.
  const peak = lanes.reduce((most, { samples }) => samples.reduce((high, value) => Math.max(high, Math.abs(value)), most), 0);
  for (const [index, { wave, spectrogram, samples, track }] of lanes.entries()) {
    drawWaveform(wave, samples, peak, PAINTS[index % PAINTS.length] as string);
    drawSpectrogram(spectrogram, samples, track.pcm.rate);
  }
}

export function startTracks(): void {
  const toggle = (): void => void (player?.playing ? player.pause() : player?.play());
  byId("play").addEventListener("click", toggle);
  byId<HTMLInputElement>("seek").addEventListener("input", (event) => player?.seek(Number((event.target as HTMLInputElement).value)));
  let due = 0;
  new ResizeObserver(() => {
    clearTimeout(due);
    due = setTimeout(drawAll, 80);
  }).observe(byId("tracks"));
  onTheme(drawAll);
  onLanguage(() => {
    delete byId("play").dataset["state"];
    move();
  });
}
