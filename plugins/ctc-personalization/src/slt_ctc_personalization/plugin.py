"""What this distribution brings, as data."""

from __future__ import annotations

from sltcore.plugin import Command, Component, hookimpl

SLT_API = (1, 0)


@hookimpl
def slt_components() -> list[Component]:
    """The beam search."""
    return [
        Component(
            "decoder",
            "ctc-beam",
            impl="slt_ctc_personalization.build:ctc_beam",
            config="slt_ctc_personalization.config:CtcBeamConfig",
            summary="prefix beam search with phrase boosting, an n-gram language model and a lexicon",
            source="arXiv:2210.09510; prefix search: Graves et al. 2006, Hannun et al. 2014",
            small={
                "config": {"characters": "abcdefgh", "beam": 8, "n_best": 3},
                "contexts": [{}, {"phrases": []}, {"phrases": ["abc", "had a bag"]}],
            },
        )
    ]


@hookimpl
def slt_commands() -> list[Command]:
    """`slt lm`."""
    return [Command("lm", "slt_ctc_personalization.commands:app", "build n-gram language models from text")]
