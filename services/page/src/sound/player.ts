/** Plays several tracks in step: one clock, a gain each. */

import type { Pcm } from "./wav";

const FADE = 0.012; // seconds; a gain that jumps clicks

export class Player {
  private context: AudioContext | null = null;
  private gains: GainNode[] = [];
  private nodes: AudioBufferSourceNode[] = [];
  private readonly buffers: AudioBuffer[];
  private readonly levels: number[];
  private began = 0;
  private offset = 0;
  private frame = 0;
  private running = false;
  readonly duration: number;

  /** `tell` is called while the position moves, and when playing starts or stops. */
  constructor(tracks: Pcm[], private readonly tell: () => void) {
    this.buffers = tracks.map(({ rate, channels }) => {
      const length = Math.max(1, channels[0]?.length ?? 0);
      const buffer = new AudioBuffer({ length, numberOfChannels: Math.max(1, channels.length), sampleRate: rate });
      channels.forEach((channel, index) => buffer.copyToChannel(channel, index));
      return buffer;
    });
    this.levels = tracks.map(() => 1);
    this.duration = Math.max(0, ...this.buffers.map((buffer) => buffer.duration));
  }

  get playing(): boolean {
    return this.running;
  }

  get position(): number {
    if (!this.running || !this.context) return this.offset;
    return Math.min(this.duration, Math.max(0, this.context.currentTime - this.began));
  }

  async play(): Promise<void> {
    this.context ??= new AudioContext();
    await this.context.resume();
    if (this.running) return;
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    this.start();
    this.follow();
  }

  pause(): void {
    if (!this.running) return;
    this.offset = this.position;
    this.silence();
    this.tell();
  }

  seek(seconds: number): void {
    const was = this.running;
    this.silence();
    this.offset = Math.min(this.duration, Math.max(0, seconds));
    if (was) {
      this.start();
      this.follow();
    }
    this.tell();
  }

  /** Gain of a track: 1 heard, 0 not. */
  level(track: number, gain: number): void {
    this.levels[track] = gain;
    const node = this.gains[track];
    if (node && this.context) node.gain.setTargetAtTime(gain, this.context.currentTime, FADE);
  }

  close(): void {
    this.silence();
    void this.context?.close();
    this.context = null;
  }

  private start(): void {
    const context = this.context as AudioContext;
    const at = context.currentTime + 0.02;
    this.began = at - this.offset;
    this.gains = this.buffers.map((_, index) => new GainNode(context, { gain: this.levels[index] ?? 1 }));
    this.nodes = this.buffers.map((buffer, index) => {
      const node = new AudioBufferSourceNode(context, { buffer });
      node.connect(this.gains[index] as GainNode).connect(context.destination);
      node.start(at, Math.min(this.offset, buffer.duration));
      return node;
    });
    this.running = true;
  }

  private silence(): void {
    cancelAnimationFrame(this.frame);
    for (const node of this.nodes) {
      node.stop();
      node.disconnect();
    }
    this.nodes = [];
    this.gains = [];
    this.running = false;
  }

  private follow(): void {
    this.tell();
    this.frame = requestAnimationFrame(() => {
      if (!this.running) return;
      if (this.position >= this.duration) {
        this.silence();
        this.offset = this.duration;
        this.tell();
      } else this.follow();
    });
  }
}
