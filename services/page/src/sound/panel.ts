/** The sound panel: a recording becomes its voices. */

import type { Answer } from "../api";
import { call } from "../api";
import { ICONS, byId, h, icon, save } from "../dom";
import { sampleFile, startDrop } from "../drop";
import { t, unsay } from "../i18n";
import { modelsOf, offer, onModels } from "../models";
import { PageError } from "../problem";
import { keptFile } from "../storage";
import { Workplace } from "../work";
import { startLive } from "./live-panel";
import { Microphone, joinedPieces, meterLevel } from "./microphone";
import { type Track, clock, showTracks, startTracks } from "./tracks";
import { type Pcm, decode, readWav, writeWav } from "./wav";

const MOST_BYTES = 96 * 1024 * 1024; // of a recording that is drawn; decoded it is many times that

const work = new Workplace("separate", "sound");

const stem = (name: string): string => name.replace(/\.[^.]*$/, "") || "recording";

/** A recording as this browser reads it; null where it cannot, which is the server's to judge. */
async function mixture(file: File): Promise<Track | null> {
  if (file.size > MOST_BYTES) return null;
  try {
    return { key: "mixture", pcm: await decode(await file.arrayBuffer()), file: `${stem(file.name)}.wav`, audible: true };
  } catch {
    return null;
  }
}

export function voiceTracks(pcm: Pcm[], name: string): Track[] {
  return pcm.map((each, index) => ({ key: "voice", args: { n: index + 1 }, pcm: each, file: `${name}-voice-${index + 1}.wav`, audible: true }));
}

async function separate(file: File): Promise<void> {
  const model = byId<HTMLSelectElement>("sound-model").value;
  about(null);
  const seen = mixture(file);
  void seen.then((track) => showTracks(track ? [track] : []));
  const answer = await work.run(file, { model, format: "wav" }, "voices", () => void separate(file));
  if (answer) await showVoices(answer, await seen, file.name, model);
}

async function showVoices(answer: Answer, mix: Track | null, name: string, model: string): Promise<void> {
  const all = byId("sound-all");
  all.replaceChildren(h("button", { type: "button", class: "small", on: { click: () => save(answer.blob, `${stem(name)}-voices.wav`) } },
    icon(ICONS.download), h("span", { t: "downloadVoices" })));
  about(model);
  if (answer.blob.size > 4 * MOST_BYTES) {
    work.fail(new PageError("tooLongToShow"));
    return;
  }
  const { rate, channels } = readWav(await answer.blob.arrayBuffer());
  const voices = voiceTracks(channels.map((channel) => ({ rate, channels: [channel] })), stem(name));
  showTracks(mix ? [{ ...mix, audible: false }, ...voices] : voices);
}

/** Which bundle answered; null before one has. */
function about(model: string | null): void {
  unsay(byId("sound-about-model"), model ?? "");
  byId("sound-about").hidden = model === null;
  if (model === null) byId("sound-all").replaceChildren();
}

let recording: { microphone: Microphone; pieces: Float32Array[] } | null = null;

async function record(): Promise<void> {
  if (recording) {
    stopRecording();
    return;
  }
  const pieces: Float32Array[] = [];
  const meter = byId("record-meter");
  work.clear();
  try {
    const microphone = await Microphone.open((samples) => {
      pieces.push(samples);
      meter.style.setProperty("--level", String(meterLevel(samples)));
      const seconds = (pieces.length * samples.length) / microphone.rate;
      byId("record-time").textContent = clock(seconds);
    });
    recording = { microphone, pieces };
    draw();
  } catch (error) {
    work.fail(error);
  }
}

function stopRecording(): void {
  if (!recording) return;
  const { microphone, pieces } = recording;
  recording = null;
  const rate = microphone.rate;
  microphone.close();
  draw();
  const samples = joinedPieces(pieces);
  if (samples.length === 0) return;
  void separate(new File([writeWav({ rate, channels: [samples] }, 16)], `${t("recordingName")}.wav`, { type: "audio/wav" }));
}

function draw(): void {
  byId("record-on").hidden = recording === null;
  byId("sound-choices").hidden = recording !== null;
  (recording ? byId("record-stop") : byId("record")).focus();
}

async function sample(name: string): Promise<void> {
  work.clear();
  try {
    await separate(await sampleFile(name, async (path) => (await call(path)).blob));
  } catch (error) {
    work.fail(error, () => void sample(name));
  }
}

async function resume(): Promise<void> {
  const task = work.left();
  if (!task) return;
  const file = await keptFile("separate");
  const mix = file ? mixture(file) : Promise.resolve(null);
  void mix.then((track) => showTracks(track ? [track] : []));
  const answer = await work.resume(task);
  if (answer) await showVoices(answer, await mix, task.name, task.model);
}

export function startSound(): void {
  startTracks();
  startDrop(byId("sound-drop"), byId<HTMLInputElement>("sound-file"), (file) => void separate(file));
  byId("record").addEventListener("click", () => void record());
  byId("record-stop").addEventListener("click", stopRecording);
  byId("sound-sample").addEventListener("click", () => void sample("two-speakers.flac"));
  startLive((end, model) => {
    about(model);
    showTracks([{ key: "mixture", pcm: end.mixture, file: "live.wav", audible: false }, ...voiceTracks(end.voices, "live")]);
  });
  onModels(() => {
    const separators = modelsOf("separator").sort((one, other) => Number(one.causal) - Number(other.causal));
    offer(byId<HTMLSelectElement>("sound-model"), separators.map(({ name }) => name));
  });
  void resume();
}
