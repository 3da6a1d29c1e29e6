"""Components of plugins that the project publishes, so that a missing one is answered with its pip command."""

from __future__ import annotations

from collections.abc import Mapping

KNOWN_COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "sltcore-speech": (
        "encoder/log-mel",
        "encoder/conformer",
        "encoder/lstm",
        "encoder/hama-conformer",
        "encoder/hf-speech",
        "decoder/ctc-greedy",
        "decoder/classifier",
        "decoder/phrase-boost",
        "decoder/rnnt",
        "vocoder/griffin-lim",
        "vocoder/world",
        "metric/wer",
        "metric/cer",
        "metric/per",
        "metric/keyword-f1",
        "metric/mel-cepstral-distortion",
        "augmentation/speed",
        "augmentation/volume",
        "augmentation/spec-augment",
        "objective/distillation",
    ),
    "sltcore-ctc-personalization": (
        "decoder/ctc-beam",
        "decoder/ctc-greedy-boost",
        "decoder/ctc-spotter",
        "encoder/contextual-adapter",
        "encoder/phone-head",
        "metric/listed-words",
        "objective/phone-ctc",
    ),
    "sltcore-nna": ("accelerator/nna",),
    "sltcore-pate": ("privacy/dp-sgd", "privacy/pate"),
    "sltcore-residual-adapters": ("adapter/lora", "adapter/residual"),
    "sltcore-sql-rerank": (
        "decoder/candidates",
        "decoder/plan-labels",
        "decoder/plan-sequence",
        "decoder/sql-constrained",
        "decoder/sql-endpoint",
        "decoder/sql-generate",
        "metric/exact-match",
        "metric/execution",
        "metric/test-suite",
        "reranker/first-executable",
        "reranker/gold-plan",
        "reranker/in-turn",
        "reranker/likelihood",
        "reranker/llm-judge",
        "reranker/majority-vote",
        "reranker/query-plan",
        "reranker/schema-linking",
        "reranker/shuffled-plan",
        "reranker/weighted",
    ),
    "sltcore-sub8bit": (
        "quantizer/sub8bit",
        "quantizer/post-training",
        "quantizer/straight-through",
        "quantizer/level-regularizer",
        "quantizer/parq",
    ),
}


def distribution_of(kind: str, name: str) -> str | None:
    """The published distribution that brings a component, or None."""
    for distribution, components in KNOWN_COMPONENTS.items():
        if f"{kind}/{name}" in components:
            return distribution
    return None
