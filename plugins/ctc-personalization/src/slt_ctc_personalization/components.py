"""The plugin's components, as data."""

from __future__ import annotations

from sltcore.plugin import Component

PACKAGE = "slt_ctc_personalization"
PAPER = "arXiv:2210.09510"
LISTS = [{}, {"phrases": []}, {"phrases": ["abc", "had a bag"]}]

COMPONENTS: tuple[Component, ...] = (
    Component(
        "encoder",
        "contextual-adapter",
        impl=f"{PACKAGE}.adapter.build_adapter:contextual_adapter",
        config=f"{PACKAGE}.adapter.config_adapter:ContextualAdapterConfig",
        summary="a frozen encoder whose frames attend to the phrases of a call; streams with it",
        source=f"{PAPER}; arXiv:2205.13660; supervision: arXiv:2307.00759",
        small={
            "config": {
                "encoder": {
                    "use": "conformer",
                    "frontend": {"use": "log-mel", "n_mels": 20},
                    "d_model": 16,
                    "layers": 2,
                    "heads": 2,
                    "ffn": 32,
                    "kernel": 5,
                    "subsampling_channels": 4,
                    "chunk_frames": 4,
                },
                "characters": "abcdefgh",
                "embedding": 8,
                "hidden": 8,
                "width": 16,
                "context_frames": 2,
            },
            "contexts": LISTS,
        },
    ),
    Component(
        "encoder",
        "phone-head",
        impl=f"{PACKAGE}.phones.build_phones:phone_head",
        config=f"{PACKAGE}.phones.config_phones:PhoneHeadConfig",
        summary="phones beside the output of an encoder, by its own phone head or a new one; streams with it",
        source=f"{PAPER} (phone alignment network)",
        small={
            "config": {
                "encoder": {
                    "use": "lstm",
                    "frontend": {"use": "log-mel", "n_mels": 20},
                    "hidden": 16,
                    "layers": 2,
                },
                "phones": "cmu",
                "layers": [1, -1],
                "frozen": False,
            }
        },
    ),
    Component(
        "objective",
        "phone-ctc",
        impl=f"{PACKAGE}.phones.build_phones:phone_ctc",
        config=f"{PACKAGE}.phones.config_phones:PhoneCtcConfig",
        summary="CTC over phones against the pronunciation of the transcript, for phone-head or with a head of its own",
        source="doi:10.1145/1143844.1143891; phones: arXiv:2210.09510",
        small={
            "config": {"phones": "cmu"},
            "contexts": [{"transcript": ["a cat sat", "the dog", "no"]}, {"transcript": "yes"}],
        },
    ),
    Component(
        "decoder",
        "ctc-beam",
        impl=f"{PACKAGE}.beam_search.build:ctc_beam",
        config=f"{PACKAGE}.beam_search.config:CtcBeamConfig",
        summary="prefix beam search with phrase boosting, an n-gram language model and a lexicon",
        source=f"{PAPER}; prefix search: Graves et al. 2006, Hannun et al. 2014",
        small={"config": {"characters": "abcdefgh", "beam": 8, "n_best": 3}, "contexts": LISTS},
    ),
    Component(
        "decoder",
        "ctc-greedy-boost",
        impl=f"{PACKAGE}.beam_search.build_greedy_boost:ctc_greedy_boost",
        config=f"{PACKAGE}.beam_search.config_greedy_boost:CtcGreedyBoostConfig",
        summary="greedy decoding with phrase boosting, in one pass",
        source="arXiv:2508.07014; doi:10.1145/1143844.1143891",
        small={"config": {"characters": "abcdefgh"}, "contexts": LISTS},
    ),
    Component(
        "decoder",
        "ctc-spotter",
        impl=f"{PACKAGE}.spotter.build_spotter:ctc_spotter",
        config=f"{PACKAGE}.spotter.config_spotter:CtcSpotterConfig",
        summary="greedy decoding, with the listed phrases that a word spotter hears written over it",
        source="arXiv:2406.07096",
        small={"config": {"characters": "abcdefgh"}, "contexts": LISTS},
    ),
    Component(
        "metric",
        "listed-words",
        impl=f"{PACKAGE}.metrics.build_listed_words:listed_words",
        config=f"{PACKAGE}.metrics.config_listed_words:ListedWordsConfig",
        summary="precision, recall and F1 of listed phrases; word error rates on listed and on other words",
        source="arXiv:2104.02194; aligned by jiwer",
        small={
            "config": {"phrases": ["amazon queen", "anna", "lights"]},
            "outputs": ("turn the light on", "play amazon queen", "call anna", "stop"),
            "references": ("turn the lights on", "play the amazon queen", "call anna", ""),
        },
    ),
)
