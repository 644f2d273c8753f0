/** What the page uses of NiiVue: a chunk of its own, loaded with the first volume, that changes only when NiiVue does. */
export { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
