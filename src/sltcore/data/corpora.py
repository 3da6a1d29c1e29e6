"""The table of corpora: each is a frozen descriptor; its loader turns unpacked files into rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sltcore.data.librispeech_mini import OWN_COLUMNS as MINI_COLUMNS
from sltcore.data.rows import COLUMNS
from sltcore.data.tuxpaint import LANGUAGES as STAMP_LANGUAGES
from sltcore.errors import DataError, did_you_mean


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package and the SHA-256 of each version of its .deb that was checked when the descriptor was written."""

    name: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Corpus:
    """Where a corpus comes from, what it holds, and how it is split; nothing here reads a file.

    `loader` names a function of `sltcore.data` as "module.function"; it gets folders that hold `markers` (glob
    patterns below a folder) and `options`. `utterances` and `minutes` are what it yields on the recorded versions.
    `hub` is an id for `datasets.load_dataset`, the last source tried; `hub_columns` maps our columns to its own.
    """

    name: str
    title: str
    languages: tuple[str, ...]
    license: str
    homepage: str
    citation: str
    loader: str
    markers: tuple[str, ...]
    packages: tuple[DebianPackage, ...]
    sample_rate_hz: int | None
    split_rule: str
    utterances: int
    minutes: float
    speakers: int
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    hub: str | None = None
    hub_columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    columns: tuple[str, ...] = COLUMNS
    notes: str = ""


def _package(name: str, version: str, sha256: str) -> DebianPackage:
    return DebianPackage(name, MappingProxyType({version: sha256}))


_ASTERISK_VERSION = "1.6.1-1"
_ASTERISK = {  # voice, reader, licence, utterances, minutes, checksums of the texts and of the sounds
    "en": (
        *("en_US_f_Allison", "Allison Smith", "CC-BY-SA-3.0", 551, 24.26),
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
    ),
    "es": (
        *("es_MX_f_Allison", "Allison Smith", "CC-BY-SA-3.0", 477, 28.87),
        "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
        "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
    ),
    "fr": (
        *("fr_CA_f_June", "June Wallack", "CC-BY-SA-3.0", 509, 23.91),
        "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
        "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
    ),
    "it": (
        *("it_IT_m_Carlo", "Carlo Flora", "CC-BY-3.0", 582, 22.59),
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
        "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
    ),
    "ru": (
        *("ru_RU_f_IvrvoiceRU", "ivrvoice.ru", "CC-BY-3.0", 554, 23.49),
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
        "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
    ),
}
_FILLETS_DATA = _package(
    "fillets-ng-data", "1.0.1-1.1", "25de89afd8b1adf7bcace8290248a6a22c89cd42300317e69000e162c032cf84"
)
_FILLETS = {  # language: own package, its checksum, utterances, minutes, speakers, split rule
    "cs": (
        "fillets-ng-data-cs",
        "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
        *(1825, 104.36, 26, "speaker-and-text"),
    ),
    "nl": (
        "fillets-ng-data-nl",
        "afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10",
        *(1615, 95.80, 2, "text"),
    ),
    "en": (None, "", 30, 1.65, 7, "speaker-and-text"),
}
_STAMPS = _package(
    "tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
)
_STAMP_COUNTS = {  # utterances, minutes
    "be": (617, 14.6),
    "bg": (774, 17.7),
    "ca": (808, 13.4),
    "da": (314, 5.1),
    "el": (659, 17.6),
    "en": (65, 0.9),
    "es": (753, 22.0),
    "fr": (770, 18.1),
    "nl": (67, 0.6),
    "pt_BR": (15, 0.2),
    "ro": (777, 25.4),
    "ru": (782, 20.3),
}


def _asterisk(language: str) -> Corpus:
    voice, reader, license_, utterances, minutes, texts, sounds = _ASTERISK[language]
    base = f"asterisk-core-sounds-{language}"
    return Corpus(
        name=f"asterisk-{language}",
        title=f"Asterisk telephone prompts ({language}), read by {reader}",
        languages=(language,),
        license=license_,
        homepage="https://www.asterisk.org",
        citation=f"Asterisk Core Sounds 1.6.1, {language}. Read by {reader}; supported by Digium, Inc.",
        loader="asterisk.rows",
        options=MappingProxyType({"language": language, "voice": voice}),
        markers=(
            f"usr/share/asterisk/sounds/{voice}",
            f"usr/share/doc/{base}/core-sounds-{language}.txt*",
        ),
        packages=(_package(base, _ASTERISK_VERSION, texts), _package(f"{base}-g722", _ASTERISK_VERSION, sounds)),
        sample_rate_hz=16000,
        split_rule="seeded-text" if language == "en" else "text",
        utterances=utterances,
        minutes=minutes,
        speakers=1,
        notes="Ids are shared by the five languages. The Spanish texts lack most accents." if language == "es" else "",
    )


def _fillets(language: str) -> Corpus:
    own, sha256, utterances, minutes, speakers, rule = _FILLETS[language]
    packages = (_FILLETS_DATA,) if own is None else (_FILLETS_DATA, _package(own, "1.0.1-1.1", sha256))
    return Corpus(
        name=f"fillets-{language}",
        title=f"Fish Fillets: acted dialogue of a puzzle game ({language})",
        languages=(language,),
        license="GPL-2.0-or-later",
        homepage="https://fillets.sourceforge.net",
        citation="Fish Fillets - Next Generation 1.0.1. ALTAR interactive and Ivo Danihelka.",
        loader="fillets.rows",
        options=MappingProxyType({"language": language, "package": "fillets"}),
        markers=("usr/share/games/fillets-ng/script", f"usr/share/games/fillets-ng/sound/*/{language}"),
        packages=packages,
        sample_rate_hz=22050,
        split_rule=rule,
        utterances=utterances,
        minutes=minutes,
        speakers=speakers,
        notes={
            "cs": "Two leads speak 81 % of it and are the training part; some files are 44.1 kHz.",
            "nl": "Some recordings say other words than the script; filter before trusting figures.",
            "en": "A few exclamations; too small to train on.",
        }[language],
    )


def _tuxpaint(languages: tuple[str, ...], name: str, utterances: int, minutes: float) -> Corpus:
    return Corpus(
        name=name,
        title="Tux Paint: names of pictures, read aloud" + (f" ({languages[0]})" if len(languages) == 1 else ""),
        languages=tuple(language[:2] for language in languages),
        license="GPL-2.0-only",
        homepage="https://tuxpaint.org",
        citation="Tux Paint Stamps 2022.06.04. Bill Kendrick and contributors.",
        loader="tuxpaint.rows",
        options=MappingProxyType({"languages": languages}),
        markers=("usr/share/tuxpaint/stamps",),
        packages=(_STAMPS,),
        sample_rate_hz=44100,
        split_rule="text",
        utterances=utterances,
        minutes=minutes,
        speakers=len(languages),
        notes="About one volunteer a language; ca and el have several, not told apart, and often differ from the text.",
    )


def _all() -> dict[str, Corpus]:
    found = [
        *(_asterisk(language) for language in _ASTERISK),
        *(_fillets(language) for language in _FILLETS),
        Corpus(
            name="flight-of-the-amazon-queen",
            aliases=("fotaq",),
            title="Flight of the Amazon Queen: acted dialogue of an adventure game (en)",
            languages=("en",),
            license="LicenseRef-Flight-of-the-Amazon-Queen",
            homepage="https://www.scummvm.org",
            citation="Flight of the Amazon Queen, talkie edition 1.0.0. John Passfield and Steve Stamatiadis, 1995.",
            loader="fotaq.rows",
            markers=("usr/share/scummvm/flight-of-the-amazon-queen/queen.1c",),
            packages=(
                _package(
                    "flight-of-the-amazon-queen",
                    "1.0.0-9",
                    "40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1",
                ),
            ),
            sample_rate_hz=11025,
            split_rule="speaker-and-text",
            utterances=3983,
            minutes=172.15,
            speakers=30,
            notes="Freeware: may be passed on and changed with changes marked, not sold. Speakers are the characters.",
        ),
        Corpus(
            name="librispeech-mini",
            title="LibriSpeech mini: read English of test-other, the transcribed part",
            languages=("en",),
            license="CC-BY-4.0",
            homepage="https://www.openslr.org/12",
            citation="LibriSpeech (c) 2014 by Vassil Panayotov. Panayotov, Chen, Povey, Khudanpur, ICASSP 2015.",
            loader="librispeech_mini.rows",
            markers=("transcribed/train.parquet", "transcribed/test.parquet"),
            packages=(),
            sample_rate_hz=16000,
            split_rule="files",
            utterances=70,
            minutes=8.40,
            speakers=7,
            columns=(*COLUMNS, *MINI_COLUMNS),
            notes="Only from the folder that SLT_DATA names. 5 speakers to train, 2 to test: no LibriSpeech figure.",
        ),
        _tuxpaint(STAMP_LANGUAGES, "tuxpaint", 6401, 155.71),
        *(
            _tuxpaint((language,), f"tuxpaint-{language.lower().replace('_', '-')}", *_STAMP_COUNTS[language])
            for language in STAMP_LANGUAGES
        ),
    ]
    return {corpus.name: corpus for corpus in found}


CORPORA: Mapping[str, Corpus] = MappingProxyType(_all())


def corpus(name: str) -> Corpus:
    """The descriptor of this name or alias.

    Raises DataError where no corpus has the name, with the nearest that exists.
    """
    for entry in CORPORA.values():
        if name == entry.name or name in entry.aliases:
            return entry
    names = [entry for known in CORPORA.values() for entry in (known.name, *known.aliases)]
    raise DataError(f"no corpus is named {name!r}; known: {', '.join(names)}.{did_you_mean(name, names)}")
