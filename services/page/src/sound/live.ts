/** Live separation: the microphone goes to the server as it is heard, the voices come back and are heard at once. */

import { ApiError, Unreachable } from "../api";
import { subprotocols } from "../key";
import { Microphone, joinedPieces, meterLevel } from "./microphone";
import type { Pcm } from "./wav";

export interface LiveEnd {
  mixture: Pcm;
  voices: Pcm[];
  /** Whether the server said that it was all. */
  complete: boolean;
}

interface Started {
  type: "start";
  model: string;
  sources: string[];
  sample_rate: number;
  delay_samples: number;
}

export interface LiveEvents {
  /** The server is ready: which model, how many voices, and how far behind they are, in seconds. */
  started: (model: string, voices: number, delay: number) => void;
  /** Levels, 0 to 1: the microphone's first, then each voice's; those that are not known yet are null. */
  levels: (levels: (number | null)[]) => void;
}

export class Live {
  private readonly heard: Float32Array[] = [];
  private readonly pieces: Float32Array[][] = [];
  private readonly players: AudioWorkletNode[] = [];
  private readonly gains: GainNode[] = [];
  private about: Started | null = null;
  private rest = new Uint8Array(0);
  private stopped = false;
  private settled = false;
  private resolve!: (end: LiveEnd) => void;
  private reject!: (error: unknown) => void;
  /** What was heard, when it has ended; or why it ended badly. */
  readonly ended = new Promise<LiveEnd>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });

  private constructor(
    private readonly microphone: Microphone,
    private readonly socket: WebSocket,
    private readonly events: LiveEvents,
  ) {
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }: MessageEvent<string | ArrayBuffer>) =>
      typeof data === "string" ? this.said(data) : this.received(data));
    socket.addEventListener("close", () => this.lost());
  }

  /** @throws PageError, DOMException: the microphone cannot be had. */
  static async start(model: string, rate: number, events: LiveEvents): Promise<Live> {
    let live: Live | null = null;
    const microphone = await Microphone.open((samples) => live?.capture(samples), rate);
    const address = new URL("separate/stream", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    address.search = new URLSearchParams({ sample_rate: String(microphone.rate), format: "pcm_f32le", ...(model && { model }) }).toString();
    live = new Live(microphone, new WebSocket(address, subprotocols()), events);
    return live;
  }

  /** Which voices are heard now. */
  hear(voice: number, heard: boolean): void {
    this.gains[voice]?.gain.setTargetAtTime(heard ? 1 : 0, this.microphone.context.currentTime, 0.012);
  }

  /** Stop listening; the server then sends what is left. */
  stop(): void {
    this.stopped = true;
    this.microphone.close();
    if (this.socket.readyState === WebSocket.OPEN && this.about) this.socket.send(JSON.stringify({ type: "end" }));
    else this.socket.close();
  }

  private capture(samples: Float32Array): void {
    if (this.stopped) return; // pieces that were on their way; nothing may follow the end
    this.events.levels([meterLevel(samples)]);
    if (!this.about || this.socket.readyState !== WebSocket.OPEN) return;
    this.heard.push(samples);
    this.socket.send(samples as Float32Array<ArrayBuffer>);
  }

  private said(text: string): void {
    const message = JSON.parse(text) as Started | { type: "end" } | { error: { code: string; message: string; request_id: string } };
    if ("error" in message) {
      const { code, message: words, request_id } = message.error;
      this.finish(() => this.reject(new ApiError(400, code, words, request_id)));
    } else if (message.type === "start") {
      void this.begin(message);
    } else {
      this.finish(() => this.resolve(this.result(true)));
    }
  }

  private begin(about: Started): void {
    this.about = about;
    const { context } = this.microphone;
    for (const _ of about.sources) {
      const player = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
      const gain = new GainNode(context, { gain: 0 }); // silent at first: loudspeakers would feed the microphone
      player.connect(gain).connect(context.destination);
      this.players.push(player);
      this.gains.push(gain);
      this.pieces.push([]);
    }
    this.events.started(about.model, about.sources.length, about.delay_samples / about.sample_rate);
  }

  /** Interleaved floats, one of each voice at a time. */
  private received(buffer: ArrayBuffer): void {
    const voices = this.pieces.length;
    const all = new Uint8Array(this.rest.length + buffer.byteLength);
    all.set(this.rest);
    all.set(new Uint8Array(buffer), this.rest.length);
    const frames = Math.floor(all.length / (4 * voices));
    this.rest = all.slice(frames * 4 * voices);
    const values = new Float32Array(all.buffer, 0, frames * voices);
    const levels: (number | null)[] = [null];
    for (let voice = 0; voice < voices; voice++) {
      const piece = Float32Array.from({ length: frames }, (_, frame) => values[frame * voices + voice] ?? 0);
      this.pieces[voice]?.push(piece);
      levels.push(meterLevel(piece));
      this.players[voice]?.port.postMessage(piece);
    }
    this.events.levels(levels);
  }

  private result(complete: boolean): LiveEnd {
    const rate = this.about?.sample_rate ?? this.microphone.rate;
    const pcm = (pieces: Float32Array[]): Pcm => ({ rate, channels: [joinedPieces(pieces)] });
    return { mixture: pcm(this.heard), voices: this.pieces.map(pcm), complete };
  }

  /** Without a word of the server: what was heard so far is not lost. */
  private lost(): void {
    const some = this.about && this.heard.length > 0;
    this.finish(() => (some ? this.resolve(this.result(false)) : this.reject(new Unreachable())));
  }

  private finish(settle: () => void): void {
    if (this.settled) return;
    this.settled = true;
    this.microphone.close();
    this.socket.close();
    settle();
  }
}
