/** Stands in for zarrita, which NiiVue imports to read Zarr: the page never asks for that. */
export const root = (): never => {
  throw new Error("Zarr is not read here");
};
export const open = root;
export const get = root;
export const registry = new Map<string, unknown>();
export class FetchStore {}
