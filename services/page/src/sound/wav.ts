/** WAV in and out: what the server answers, what the microphone gave, what is downloaded. */

export interface Pcm {
  rate: number;
  channels: Float32Array<ArrayBuffer>[];
}

const tag = (view: DataView, at: number): string => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));

/** Samples of a WAV of 16, 24 or 32 bits, whole numbers or floats. */
export function readWav(buffer: ArrayBuffer): Pcm {
  const view = new DataView(buffer);
  if (buffer.byteLength < 44 || tag(view, 0) !== "RIFF" || tag(view, 8) !== "WAVE") throw new Error("not a WAV");
  let format = 0, count = 0, rate = 0, bits = 0;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const name = tag(view, at);
    const size = view.getUint32(at + 4, true);
    if (name === "fmt ") {
      [format, count, rate, bits] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true), view.getUint32(at + 12, true), view.getUint16(at + 22, true)];
      if (format === 0xfffe) format = view.getUint16(at + 32, true);
    } else if (name === "data") {
      return { rate, channels: samples(view, at + 8, Math.min(size, view.byteLength - at - 8), count, bits, format === 3) };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("a WAV without data");
}

function samples(view: DataView, start: number, bytes: number, count: number, bits: number, floats: boolean): Float32Array<ArrayBuffer>[] {
  const width = bits / 8;
  const length = Math.floor(bytes / (width * count));
  const read: Record<string, (at: number) => number> = {
    "32f": (at) => view.getFloat32(at, true),
    "16": (at) => view.getInt16(at, true) / 32768,
    "24": (at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 8388608,
    "32": (at) => view.getInt32(at, true) / 2147483648,
  };
  const one = read[`${bits}${floats ? "f" : ""}`];
  if (!one || !count) throw new Error(`a WAV of ${bits} bits`);
  return Array.from({ length: count }, (_, channel) =>
    Float32Array.from({ length }, (_, frame) => one(start + width * (frame * count + channel))));
}

/** A WAV of 32-bit floats, which keeps what the server gave, or of 16 bits, which everything reads. */
export function writeWav({ rate, channels }: Pcm, bits: 16 | 32 = 32): Blob {
  const width = bits / 8;
  const length = channels[0]?.length ?? 0;
  const bytes = length * channels.length * width;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const put = (at: number, name: string): void => [...name].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  put(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  put(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, bits === 32 ? 3 : 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels.length * width, true);
  view.setUint16(32, channels.length * width, true);
  view.setUint16(34, bits, true);
  put(36, "data");
  view.setUint32(40, bytes, true);
  let at = 44;
  for (let frame = 0; frame < length; frame++) {
    for (const channel of channels) {
      const value = channel[frame] as number;
      if (bits === 32) view.setFloat32(at, value, true);
      else view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * value))), true);
      at += width;
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** The sample rate that a WAV or FLAC names; others are decoded at a common one. */
function statedRate(buffer: ArrayBuffer): number {
  const view = new DataView(buffer);
  if (buffer.byteLength > 28 && tag(view, 0) === "RIFF" && tag(view, 12) === "fmt ") return view.getUint32(24, true);
  if (buffer.byteLength > 22 && tag(view, 0) === "fLaC") return view.getUint32(18) >>> 12;
  return 44_100;
}

/** Decode a recording with the browser's own decoders, at its own rate where that is known and allowed. */
export async function decode(buffer: ArrayBuffer): Promise<Pcm> {
  const rate = Math.min(96_000, Math.max(8_000, statedRate(buffer)));
  const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, channel) => decoded.getChannelData(channel));
  return { rate: decoded.sampleRate, channels };
}

/** One channel of several: their mean. */
export function mono({ channels }: Pcm): Float32Array<ArrayBuffer> {
  const first = channels[0] ?? new Float32Array(0);
  if (channels.length < 2) return first;
  const mean = new Float32Array(first.length);
  for (const channel of channels) for (let index = 0; index < mean.length; index++) mean[index]! += channel[index]! / channels.length;
  return mean;
}
