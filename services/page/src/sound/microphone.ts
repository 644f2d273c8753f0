/** The microphone, as pieces of mono samples. */

import { byId } from "../dom";
import { PageError } from "../problem";

export class Microphone {
  private constructor(
    readonly context: AudioContext,
    private readonly stream: MediaStream,
  ) {}

  get rate(): number {
    return this.context.sampleRate;
  }

  /**
   * Ask for the microphone and hand on what it hears.
   *
   * @param rate wished for; browsers that cannot convert give another, see `rate`.
   * @throws PageError, DOMException
   */
  static async open(take: (samples: Float32Array) => void, rate?: number): Promise<Microphone> {
    if (!isSecureContext || !navigator.mediaDevices) throw new PageError("microphoneInsecure");
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    try {
      const [context, source] = joined(stream, rate);
      await context.audioWorklet.addModule(`page/${byId("worklet").dataset["file"]}`);
      const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      capture.port.onmessage = ({ data }: MessageEvent<Float32Array>) => take(data);
      source.connect(capture);
      await context.resume();
      return new Microphone(context, stream);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw error;
    }
  }

  close(): void {
    for (const track of this.stream.getTracks()) track.stop();
    if (this.context.state !== "closed") void this.context.close();
  }
}

function joined(stream: MediaStream, rate?: number): [AudioContext, MediaStreamAudioSourceNode] {
  if (rate) {
    const context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    try {
      return [context, context.createMediaStreamSource(stream)];
    } catch {
      void context.close(); // Firefox joins only what has the same rate
    }
  }
  const context = new AudioContext({ latencyHint: "interactive" });
  return [context, context.createMediaStreamSource(stream)];
}

/** All pieces in one. */
export function joinedPieces(pieces: Float32Array[]): Float32Array<ArrayBuffer> {
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Peak of a piece, 0 to 1, as meters show it: decibels from -60 to 0. */
export function meterLevel(samples: Float32Array): number {
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return Math.max(0, Math.min(1, 1 + (20 * Math.log10(peak + 1e-9)) / 60));
}
