/** NiiVue, held to what the page needs: a scan, its labels, a crosshair. Loaded when the first volume is shown. */

import type { NVImage, Niivue } from "./niivue";

type Library = typeof import("./niivue");

let library: Promise<Library> | null = null;

/** NiiVue, which says what it thinks of a file in the console until an instance is told not to. */
const loaded = (): Promise<Library> =>
  (library ??= import("./niivue").then((found) => {
    new found.Niivue({ logLevel: "silent" });
    return found;
  }));

export type View = "planes" | "axial" | "coronal" | "sagittal" | "render";

export interface Class {
  label: number;
  name: string;
  /** Red, green, blue, 0 to 255. */
  colour: [number, number, number];
  visible: boolean;
}

export interface Place {
  /** Voxel of the crosshair, counted to the right, to the front and up, and how many there are. */
  voxel: [number, number, number];
  size: [number, number, number];
  millimetres: [number, number, number];
  /** Value of the scan, and of the label map if there is one. */
  values: number[];
}

/** Voxels of each label, and millilitres of one voxel. */
export interface Counts {
  voxels: Map<number, number>;
  millilitres: number;
}

const VIEWS = { planes: "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", render: "RENDER" } as const satisfies Record<View, string>;

export class Viewer {
  private readonly niivue: Niivue;
  private labels: NVImage | null = null;

  private constructor(
    private readonly library: Library,
    private readonly canvas: HTMLCanvasElement,
    moved: (place: Place) => void,
  ) {
    const { MULTIPLANAR_TYPE, SHOW_RENDER } = library;
    this.niivue = new library.Niivue({
      logLevel: "silent", loadingText: "", dragAndDropEnabled: false, isResizeCanvas: true, show3Dcrosshair: true,
      backColor: [0.04, 0.045, 0.06, 1], crosshairColor: [0.45, 0.68, 1, 0.9], crosshairWidth: 0.6, crosshairWidthUnit: "percent", isOrientationTextVisible: true,
      fontColor: [0.75, 0.8, 0.9, 1], multiplanarPadPixels: 6, multiplanarLayout: MULTIPLANAR_TYPE.AUTO, multiplanarShowRender: SHOW_RENDER.AUTO,
      multiplanarEqualSize: false, isColorbar: false, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    const draw = this.niivue.drawScene.bind(this.niivue);
    this.niivue.drawScene = () => (canvas.clientWidth > 0 ? draw() : undefined); // its sums fail where there is no room, as in a hidden panel
    this.niivue.onLocationChange = () => {
      const place = this.place();
      if (place) moved(place);
    };
  }

  static async on(canvas: HTMLCanvasElement, moved: (place: Place) => void): Promise<Viewer> {
    const viewer = new Viewer(await loaded(), canvas, moved);
    await viewer.niivue.attachToCanvas(canvas, false);
    return viewer;
  }

  /** Show a scan, without labels. */
  async show(file: File): Promise<void> {
    const image = await this.library.NVImage.loadFromFile({ file, colormap: "gray" });
    this.clear();
    this.niivue.addVolume(image);
    this.moved();
  }

  /** Lay a label map over the scan; alone, if there is no scan. */
  async overlay(file: File, classes: Class[], opacity: number): Promise<void> {
    const image = await this.library.NVImage.loadFromFile({ file });
    if (this.labels) this.niivue.removeVolume(this.labels);
    this.labels = image;
    image.setColormapLabel(colours(classes));
    image.opacity = opacity;
    this.niivue.addVolume(image);
    this.centre();
    this.moved();
  }

  clear(): void {
    for (const volume of [...this.niivue.volumes].reverse()) this.niivue.removeVolume(volume);
    this.labels = null;
  }

  counts(): Counts {
    return counted(this.labels);
  }

  recolour(classes: Class[]): void {
    if (!this.labels) return;
    this.labels.setColormapLabel(colours(classes));
    this.niivue.updateGLVolume();
  }

  opacity(value: number): void {
    if (this.labels) this.niivue.setOpacity(this.niivue.volumes.indexOf(this.labels), value);
  }

  view(name: View): void {
    this.niivue.setSliceType(this.library.SLICE_TYPE[VIEWS[name]]);
  }

  /** Put the crosshair on a voxel. */
  move(voxel: [number, number, number]): void {
    const { size } = this.place() ?? {};
    if (!size) return;
    this.niivue.scene.crosshairPos = voxel.map((value, axis) => (value + 0.5) / size[axis]!) as unknown as typeof this.niivue.scene.crosshairPos;
    this.niivue.drawScene();
    this.moved();
  }

  /** To be called when the canvas has become visible, or has another size. */
  redraw(): void {
    if (this.canvas.clientWidth > 0) this.niivue.resizeListener();
  }

  private moved(): void {
    (this.niivue.onLocationChange as (location: unknown) => void)(null);
  }

  private place(): Place | null {
    const first = this.niivue.volumes[0];
    if (!first?.dimsRAS) return null;
    const size = first.dimsRAS.slice(1, 4) as [number, number, number];
    const at = [...this.niivue.scene.crosshairPos] as [number, number, number];
    const voxel = at.map((value, axis) => Math.max(0, Math.min(size[axis]! - 1, Math.floor(value * size[axis]!)))) as [number, number, number];
    const [x = 0, y = 0, z = 0] = this.niivue.frac2mm(at);
    return { voxel, size, millimetres: [x, y, z], values: this.niivue.volumes.map((volume) => volume.getValue(...voxel)) };
  }

  /** The crosshair goes to the middle of what was found. */
  private centre(): void {
    const labels = this.labels;
    if (!labels?.dimsRAS) return;
    const size = labels.dimsRAS.slice(1, 4) as [number, number, number];
    const sums = [0, 0, 0];
    let count = 0;
    const step = Math.max(1, Math.ceil(Math.cbrt((size[0] * size[1] * size[2]) / 2e6)));
    for (let z = 0; z < size[2]; z += step) for (let y = 0; y < size[1]; y += step) for (let x = 0; x < size[0]; x += step) {
      if (labels.getValue(x, y, z) <= 0) continue;
      sums[0]! += x;
      sums[1]! += y;
      sums[2]! += z;
      count++;
    }
    if (count) this.niivue.scene.crosshairPos = sums.map((sum, axis) => (sum / count + 0.5) / size[axis]!) as unknown as typeof this.niivue.scene.crosshairPos;
    this.niivue.drawScene();
  }
}

/** Of a label map that is not shown. */
export const countsOf = async (file: File): Promise<Counts> => counted(await (await loaded()).NVImage.loadFromFile({ file }));

function counted(labels: NVImage | null): Counts {
  const voxels = new Map<number, number>();
  const values = (labels?.img ?? []) as ArrayLike<number>;
  const few = new Uint32Array(256);
  for (let n = 0; n < values.length; n++) {
    const label = values[n]!;
    if (label >= 0 && label < 256) few[label]!++;
    else voxels.set(label, (voxels.get(label) ?? 0) + 1);
  }
  few.forEach((count, label) => count && voxels.set(label, count));
  const [, x = 1, y = 1, z = 1] = labels?.hdr?.pixDims ?? [];
  return { voxels, millilitres: Math.abs(x * y * z) / 1000 };
}

function colours(classes: Class[]): { R: number[]; G: number[]; B: number[]; A: number[]; I: number[]; labels: string[] } {
  const part = (index: 0 | 1 | 2): number[] => classes.map(({ colour }) => colour[index]);
  const alpha = classes.map(({ label, visible }) => (label > 0 && visible ? 255 : 0));
  return { R: part(0), G: part(1), B: part(2), A: alpha, I: classes.map(({ label }) => label), labels: classes.map(({ name }) => name) };
}
