/** Runs in the audio thread: hands on what the microphone hears, and plays what arrives, with little delay. */

declare const registerProcessor: (name: string, kind: unknown) => void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

const PIECE = 1024; // samples handed on at a time

class Capture extends AudioWorkletProcessor {
  private piece = new Float32Array(PIECE);
  private filled = 0;

  process(inputs: Float32Array[][]): boolean {
    const input = inputs[0]?.[0];
    for (const value of input ?? []) {
      this.piece[this.filled++] = value;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece, [this.piece.buffer]);
        this.piece = new Float32Array(PIECE);
        this.filled = 0;
      }
    }
    return true;
  }
}

/** Plays mono pieces one after the other; waits for a little store of them at the start and after a gap. */
class Playback extends AudioWorkletProcessor {
  private readonly pieces: Float32Array[] = [];
  private at = 0;
  private waiting = 0;
  private started = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<Float32Array>) => {
      this.pieces.push(data);
      this.waiting += data.length;
    };
  }

  process(_: Float32Array[][], outputs: Float32Array[][]): boolean {
    const output = outputs[0]?.[0];
    if (!output) return true;
    this.started ||= this.waiting >= 2 * PIECE;
    for (let n = 0; this.started && n < output.length; n++) {
      const piece = this.pieces[0];
      if (!piece) {
        this.started = false;
        break;
      }
      output[n] = piece[this.at++] ?? 0;
      this.waiting--;
      if (this.at >= piece.length) {
        this.pieces.shift();
        this.at = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playback", Playback);
