"""The plugin's decoders, vocoders and metrics, as data."""

from __future__ import annotations

from sltcore.plugin import Component

BUILD = "slt_speech.build_decoders"
CONFIG = "slt_speech.config_decoders"
SAID = ("turn the light on", "play amazon queen", "call anna", "stop")
MEANT = ("turn the lights on", "play the amazon queen", "call anna", "")

COMPONENTS: tuple[Component, ...] = (
    Component(
        "decoder",
        "ctc-greedy",
        impl=f"{BUILD}:ctc_greedy",
        config=f"{CONFIG}:CtcGreedyConfig",
        summary="the most probable label of each frame, with token and word times; the CTC loss",
        source="doi:10.1145/1143844.1143891",
        small={"config": {"characters": "abcdefghijklmnopqrstuvwxyz'"}, "contexts": [{}]},
    ),
    Component(
        "decoder",
        "rnnt",
        impl="slt_speech.build_rnnt:rnnt",
        config="slt_speech.config_rnnt:RnntConfig",
        summary="a transducer: LSTM or stateless prediction, full or pruned loss, greedy or beam search, streams",
        source="arXiv:1211.3711; arXiv:2406.06220; doi:10.1109/ICASSP40776.2020.9053040",
        small={
            "config": {
                "characters": "abcdefghijklmnopqrstuvwxyz'",
                "d_prediction": 12,
                "d_joint": 16,
                "search": "beam",
                "boost": {"use": "phrase-boost"},
            },
            "contexts": [{}, {"phrases": ["a cat", "zoo"]}],
        },
    ),
    Component(
        "decoder",
        "phrase-boost",
        impl="slt_speech.build_rnnt:phrase_boost",
        config="slt_speech.config_rnnt:PhraseBoostConfig",
        summary="phrases to expect, label by label, for the slot boost of a search",
        source="doi:10.1145/360825.360855",
        small={
            "config": {"characters": "abcdefghijklmnopqrstuvwxyz'"},
            "contexts": [{}, {"phrases": ["two three", {"text": "four", "bonus": 5.0}]}],
        },
    ),
    Component(
        "decoder",
        "classifier",
        impl=f"{BUILD}:classifier",
        config=f"{CONFIG}:ClassifierConfig",
        summary="one class for a whole utterance, from pooled frames",
        source="arXiv:2008.01077",
        small={
            "config": {"labels": ["stop", "go", "wait"], "pooling": "attention", "n_best": 3},
            "contexts": [{}],
            "labels": 1,
        },
    ),
    Component(
        "vocoder",
        "griffin-lim",
        impl=f"{BUILD}:griffin_lim",
        config=f"{CONFIG}:GriffinLimConfig",
        summary="speech from log-mel or log-linear spectra by fast Griffin-Lim; no training",
        source="doi:10.1109/WASPAA.2013.6701851",
        small={"config": {"iterations": 8}},
    ),
    Component(
        "vocoder",
        "world",
        impl=f"{BUILD}:world",
        config=f"{CONFIG}:WorldConfig",
        summary="pitch, spectral envelope and aperiodicity by WORLD, also at 8 kHz",
        source="doi:10.1587/transinf.2015EDP7457",
        small={"config": {"tracker": "dio", "order": 24}},
    ),
    Component(
        "metric",
        "wer",
        impl=f"{BUILD}:wer",
        config=f"{CONFIG}:WordErrorConfig",
        summary="word error rate in percent, with its kinds of error",
        source="NIST sclite; aligned by jiwer",
        small={"outputs": SAID, "references": MEANT},
    ),
    Component(
        "metric",
        "cer",
        impl=f"{BUILD}:cer",
        config=f"{CONFIG}:CharacterErrorConfig",
        summary="character error rate in percent, with its kinds of error",
        source="aligned by jiwer",
        small={"outputs": SAID, "references": MEANT},
    ),
    Component(
        "metric",
        "per",
        impl=f"{BUILD}:per",
        config=f"{CONFIG}:PhoneErrorConfig",
        summary="phone error rate in percent, with its kinds of error",
        source="aligned by jiwer",
        small={"outputs": ("k ɔ l", "s t ɑ p", ""), "references": ("k ɔ l", "s t ɔ p", "g oʊ")},
    ),
    Component(
        "metric",
        "keyword-f1",
        impl=f"{BUILD}:keyword_f1",
        config=f"{CONFIG}:KeywordF1Config",
        summary="precision, recall and F1 of listed words and phrases",
        source="van Rijsbergen, Information Retrieval, 1979; aligned by jiwer",
        small={
            "config": {"keywords": ["amazon queen", "anna", "lights"]},
            "outputs": SAID,
            "references": MEANT,
        },
    ),
    Component(
        "metric",
        "mel-cepstral-distortion",
        impl=f"{BUILD}:mel_cepstral_distortion",
        config=f"{CONFIG}:MelCepstralDistortionConfig",
        summary="distance of two voices' spectra in dB, with or without time warping",
        source="doi:10.1109/PACRIM.1993.407206",
        small={"config": {"tracker": "dio"}},
    ),
)
