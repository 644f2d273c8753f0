/** What labels mean, and which colour they have: related labels share a hue, words that carry meaning have more colour than others. */

import { language } from "../i18n";

/** Hue and share of colour of a family of labels. */
const FAMILIES = {
  noun: [255, 1], proper: [300, 1], verb: [150, 1], adjective: [75, 1], adverb: [40, 1], pronoun: [205, 1], number: [350, 1],
  time: [115, 1], function: [250, 0.22], mark: [250, 0],
} as const;

type Family = keyof typeof FAMILIES;

/** English, Chinese, family. UPOS (universaldependencies.org/u/pos), and the tags of the People's Daily corpus (Yu et al. 2002). */
const KNOWN: Record<string, [string, string, Family]> = {
  ADJ: ["adjective", "形容词", "adjective"], ADP: ["preposition", "介词", "function"], ADV: ["adverb", "副词", "adverb"],
  AUX: ["auxiliary", "助动词", "function"], CCONJ: ["coordinating conjunction", "并列连词", "function"],
  DET: ["determiner", "限定词", "function"], INTJ: ["interjection", "叹词", "adverb"], NOUN: ["noun", "名词", "noun"],
  NUM: ["number", "数词", "number"], PART: ["particle", "小品词", "function"], PRON: ["pronoun", "代词", "pronoun"],
  PROPN: ["proper noun", "专有名词", "proper"], PUNCT: ["punctuation", "标点", "mark"],
  SCONJ: ["subordinating conjunction", "从属连词", "function"], SYM: ["symbol", "符号", "mark"], VERB: ["verb", "动词", "verb"],
  X: ["other", "其他", "mark"],
  a: ["adjective", "形容词", "adjective"], ad: ["adjective as adverb", "副形词", "adjective"], an: ["adjective as noun", "名形词", "adjective"],
  b: ["attributive", "区别词", "adjective"], c: ["conjunction", "连词", "function"], d: ["adverb", "副词", "adverb"],
  e: ["interjection", "叹词", "adverb"], f: ["direction", "方位词", "function"], h: ["prefix", "前接成分", "function"],
  i: ["idiom", "成语", "noun"], j: ["abbreviation", "简称略语", "noun"], k: ["suffix", "后接成分", "function"],
  l: ["set phrase", "习用语", "noun"], m: ["number", "数词", "number"], n: ["noun", "名词", "noun"], na: ["noun", "名词", "noun"],
  nr: ["person", "人名", "proper"], ns: ["place", "地名", "proper"], nt: ["organisation", "机构团体", "proper"],
  nx: ["foreign word", "外文字符", "proper"], nz: ["other proper noun", "其他专名", "proper"], o: ["onomatopoeia", "拟声词", "adverb"],
  p: ["preposition", "介词", "function"], q: ["measure word", "量词", "number"], r: ["pronoun", "代词", "pronoun"],
  s: ["locality", "处所词", "noun"], t: ["time", "时间词", "time"], u: ["particle", "助词", "function"], v: ["verb", "动词", "verb"],
  vd: ["verb as adverb", "副动词", "verb"], vn: ["verb as noun", "名动词", "verb"], vvn: ["verb as noun", "名动词", "verb"],
  w: ["punctuation", "标点", "mark"], y: ["modal particle", "语气词", "function"], z: ["state", "状态词", "adjective"],
  Ag: ["adjective morpheme", "形语素", "adjective"], Bg: ["attributive morpheme", "区别语素", "adjective"],
  Dg: ["adverb morpheme", "副语素", "adverb"], Mg: ["number morpheme", "数语素", "number"], Ng: ["noun morpheme", "名语素", "noun"],
  Rg: ["pronoun morpheme", "代语素", "pronoun"], Tg: ["time morpheme", "时语素", "time"], Vg: ["verb morpheme", "动语素", "verb"],
  PER: ["person", "人名", "proper"], PERSON: ["person", "人名", "proper"], LOC: ["place", "地名", "verb"], GPE: ["place", "地名", "verb"],
  ORG: ["organisation", "机构", "noun"], MISC: ["other name", "其他名称", "adjective"], O: ["outside", "无", "mark"],
};

/** A label without the prefix that says where in a span it stands. */
const bare = (label: string): string => label.replace(/^[BIESMLU]-(?=.)/, "");

/** Punctuation and the like, whose label would be wider than the sign. */
export const isMark = (label: string): boolean => KNOWN[bare(label)]?.[2] === "mark";

export function meaning(label: string): string {
  return KNOWN[bare(label)]?.[language() === "zh" ? 1 : 0] ?? "";
}

/** Colour an element as its label. Labels that nobody here knows get a hue of their own, the same each time. */
export function paint(element: HTMLElement, label: string): void {
  const family = KNOWN[bare(label)]?.[2];
  const letters = [...bare(label)].reduce((sum, letter) => (sum * 31 + (letter.codePointAt(0) ?? 0)) % 9973, 7);
  const [hue, share] = family ? FAMILIES[family] : [(letters * 137) % 360, 1];
  element.style.setProperty("--hue", String(hue));
  element.style.setProperty("--share", String(share));
}
