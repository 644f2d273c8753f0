/** Waveforms and spectrograms on canvases, in the colours of the theme. */

import { colour, dark } from "../theme";
import { Spectrum } from "./fft";

const FLOOR = -80; // decibels that are no colour at all
const CEILING = -22;
const HIGHEST = 8_000; // Hz shown at most: speech has little above

/** Colours of the spectrogram by level, from nothing to most. */
const RAMPS = {
  dark: [[22, 24, 31], [38, 30, 84], [98, 36, 128], [170, 52, 112], [226, 92, 70], [250, 160, 52], [252, 236, 160]],
  light: [[247, 247, 249], [214, 222, 244], [150, 176, 236], [96, 120, 214], [92, 66, 176], [96, 26, 118], [46, 8, 56]],
};

function table(): Uint32Array {
  const ramp = RAMPS[dark() ? "dark" : "light"];
  const colours = new Uint32Array(256);
  for (let n = 0; n < 256; n++) {
    const at = (n / 255) * (ramp.length - 1);
    const low = Math.min(Math.floor(at), ramp.length - 2);
    const [r, g, b] = [0, 1, 2].map((part) => {
      const from = ramp[low]![part]!, to = ramp[low + 1]![part]!;
      return Math.round(from + (at - low) * (to - from));
    }) as [number, number, number];
    colours[n] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return colours;
}

/** Fit a canvas to the pixels of the screen; null where it is not visible. */
function fit(canvas: HTMLCanvasElement): { context: CanvasRenderingContext2D; width: number; height: number } | null {
  const ratio = Math.min(devicePixelRatio, 2);
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  if (!context || width === 0 || height === 0) return null;
  canvas.width = width;
  canvas.height = height;
  return { context, width, height };
}

/** Largest and smallest value below each pixel. `peak` is the value that fills the height. */
export function drawWaveform(canvas: HTMLCanvasElement, samples: Float32Array, peak: number, paint: string): void {
  const place = fit(canvas);
  if (!place) return;
  const { context, width, height } = place;
  const middle = height / 2, scale = (0.94 * middle) / (peak || 1);
  context.fillStyle = colour(paint);
  for (let x = 0; x < width; x++) {
    const from = Math.floor((x * samples.length) / width), to = Math.max(from + 1, Math.floor(((x + 1) * samples.length) / width));
    const stride = Math.max(1, Math.floor((to - from) / 512));
    let low = 0, high = 0;
    for (let n = from; n < to; n += stride) {
      const value = samples[n] ?? 0;
      if (value < low) low = value;
      else if (value > high) high = value;
    }
    const top = middle - high * scale;
    context.fillRect(x, top, 1, Math.max(1, (high - low) * scale));
  }
}

/** Levels by time and frequency, low frequencies at the bottom. */
export function drawSpectrogram(canvas: HTMLCanvasElement, samples: Float32Array, rate: number): void {
  const place = fit(canvas);
  if (!place || samples.length === 0) return;
  const { context, width, height } = place;
  const size = rate > 24_000 ? 1024 : rate > 12_000 ? 512 : 256;
  const spectrum = new Spectrum(size);
  const shown = Math.max(1, Math.round((size / 2) * Math.min(1, HIGHEST / (rate / 2))));
  const columns = Math.min(width, Math.max(1, Math.ceil(samples.length / (size / 8))));
  const image = context.createImageData(columns, shown);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = table();
  const levels = new Float32Array(size / 2);
  for (let x = 0; x < columns; x++) {
    spectrum.decibels(samples, Math.round(((x + 0.5) * samples.length) / columns - size / 2), levels);
    for (let y = 0; y < shown; y++) {
      const level = (levels[y]! - FLOOR) / (CEILING - FLOOR);
      pixels[(shown - 1 - y) * columns + x] = colours[Math.max(0, Math.min(255, Math.round(255 * level)))]!;
    }
  }
  const small = new OffscreenCanvas(columns, shown);
  small.getContext("2d")?.putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}
