/** A place where files are dropped or chosen. */

/** `take` is called with the file; whatever else is dropped on the page does nothing, instead of leaving the page. */
export function startDrop(zone: HTMLElement, input: HTMLInputElement, take: (file: File) => void): void {
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = ""; // the same file may be chosen again
    if (file) take(file);
  });
  const panel = zone.closest<HTMLElement>('[role="tabpanel"]') ?? zone; // it may be dropped beside the zone as well
  let depth = 0;
  const over = (change: number): void => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("over", depth > 0);
  };
  panel.addEventListener("dragenter", () => over(1));
  panel.addEventListener("dragleave", () => over(-1));
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}

export function startPage(): void {
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
}

/** One of the samples that come with the page, as a file. */
export async function sampleFile(name: string, fetchBlob: (path: string) => Promise<Blob>): Promise<File> {
  return new File([await fetchBlob(`page/samples/${name}`)], name);
}
