/** Power spectra of short windows, for spectrograms. */

export class Spectrum {
  private readonly real: Float32Array;
  private readonly imaginary: Float32Array;
  private readonly window: Float32Array;
  private readonly cosine: Float32Array;
  private readonly sine: Float32Array;
  private readonly reversed: Uint32Array;

  /** @param size of the window, a power of two. */
  constructor(readonly size: number) {
    this.real = new Float32Array(size);
    this.imaginary = new Float32Array(size);
    this.window = Float32Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / size)); // Hann
    this.cosine = Float32Array.from({ length: size / 2 }, (_, n) => Math.cos((2 * Math.PI * n) / size));
    this.sine = Float32Array.from({ length: size / 2 }, (_, n) => -Math.sin((2 * Math.PI * n) / size));
    const bits = Math.log2(size);
    this.reversed = Uint32Array.from({ length: size }, (_, n) => {
      let result = 0;
      for (let bit = 0; bit < bits; bit++) result |= ((n >> bit) & 1) << (bits - 1 - bit);
      return result;
    });
  }

  /** Decibels of the `size / 2` frequencies of the window that begins at `start`; a full-scale sine is near 0. Samples outside are 0. */
  decibels(samples: Float32Array, start: number, into: Float32Array): void {
    const { real, imaginary, size } = this;
    for (let n = 0; n < size; n++) {
      real[this.reversed[n]!] = (samples[start + n] ?? 0) * this.window[n]!;
    }
    imaginary.fill(0);
    this.transform();
    const scale = 4 / size; // of a window whose mean is one half
    for (let n = 0; n < size / 2; n++) {
      const power = (real[n]! * real[n]! + imaginary[n]! * imaginary[n]!) * scale * scale;
      into[n] = 10 * Math.log10(power + 1e-12);
    }
  }

  /** Radix 2, decimation in time, in place. */
  private transform(): void {
    const { real, imaginary, size } = this;
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let begin = 0; begin < size; begin += 2 * half) {
        for (let n = 0; n < half; n++) {
          const c = this.cosine[n * step]!, s = this.sine[n * step]!;
          const low = begin + n, high = low + half;
          const r = real[high]! * c - imaginary[high]! * s;
          const i = real[high]! * s + imaginary[high]! * c;
          real[high] = real[low]! - r;
          imaginary[high] = imaginary[low]! - i;
          real[low]! += r;
          imaginary[low]! += i;
        }
      }
    }
  }
}
