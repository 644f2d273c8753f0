/** What a file is, by its first bytes: what NiiVue shows here, and what only the server can draw. */

/** The ending that NiiVue knows a kind by; `there` for what the server draws, `unknown` for what it has to judge. */
export type Kind = ".nii" | ".nii.gz" | ".nrrd" | ".mha" | "there" | "unknown";

const starts = (bytes: Uint8Array, text: string, at = 0): boolean => [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));

/** NIfTI (packed or not), NRRD and MetaImage are shown here; TIFF and archives (DICOM, OME-Zarr) are drawn by the server. */
export async function kindOf(file: Blob): Promise<Kind> {
  const bytes = new Uint8Array(await file.slice(0, 4096).arrayBuffer());
  if (["PK", "II*\0", "MM\0*", "II+\0", "MM\0+"].some((head) => starts(bytes, head)) || starts(bytes, "DICM", 128)) return "there";
  const size = bytes.length >= 4 ? new DataView(bytes.buffer).getUint32(0, true) : 0;
  if ([348, 540, 0x5c010000, 0x1c020000].includes(size)) return ".nii";
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return ".nii.gz";
  if (starts(bytes, "NRRD")) return ".nrrd";
  return /^\s*(ObjectType|NDims|Comment)\s*=/.test(new TextDecoder("latin1").decode(bytes)) ? ".mha" : "unknown";
}
