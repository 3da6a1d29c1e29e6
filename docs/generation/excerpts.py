"""Tables and files that stand in pages between two marks, so that a page can be read where no site is built.

    <!-- excerpt: fields pipeline -->
    ...
    <!-- end of excerpt -->

`python -m generation.excerpts`, run in `docs/`, writes them anew from the installed package; a test fails while a page
and the package differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from generation.tables import code, table
from sltcore.cli.explain import config_rows
from sltcore.interfaces import INTERFACES
from sltcore.spec import experiments, grammar, training
from sltcore.testing.template import rendered
from sltcore.types import CONTEXT_TYPES

DOCS = Path(__file__).parent.parent
EXCERPT = re.compile(
    r"(<!-- excerpt: (?P<name>[a-z]+) ?(?P<argument>[^>]*?) -->\n).*?(<!-- end of excerpt -->)", re.DOTALL
)
MODELS = {
    "pipeline": grammar.PipelineSpec,
    "batch": grammar.BatchConfig,
    "segment": grammar.SegmentConfig,
    "train": training.TrainSpec,
    "data": training.DataConfig,
    "data-sets": training.DataSets,
    "auxiliary": training.Auxiliary,
    "copy-rows": training.CopyRows,
    "row": training.Row,
    "optimizer": training.OptimizerConfig,
    "optimizer-group": training.OptimizerGroup,
    "schedule": training.ScheduleConfig,
    "budget": training.BudgetConfig,
    "train-batch": training.TrainBatch,
    "evaluate": training.EvaluateConfig,
    "checkpoint": training.CheckpointConfig,
    "log": training.LogConfig,
    "experiment": experiments.ExperimentSpec,
    "train-stage": experiments.TrainStage,
    "transform-stage": experiments.TransformStage,
    "decode-stage": experiments.DecodeStage,
    "measure-stage": experiments.MeasureStage,
    "arm": experiments.Arm,
    "claim": experiments.Claim,
    "published": experiments.Published,
}
LONGEST_DEFAULT = 60  # characters; the default of a longer map stands in a table of its own
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".md": "markdown"}


def fields(argument: str) -> str:
    """The fields of a part of the grammar; after a second name, without those of that other part."""
    name, _, other = argument.partition(" ")
    known = set(MODELS[other].model_fields) - {"name", "kind"} if other else set()
    rows = [
        [code(field), kind, code(default) if len(default) <= LONGEST_DEFAULT else "as below", meaning]
        for field, kind, default, meaning in config_rows(MODELS[name])
        if field not in known
    ]
    return table(["field", "type", "default", "meaning"], rows)


def kinds(_: str) -> str:
    """The closed table of kinds."""
    rows = [
        [code(kind), code(interface.__name__), (interface.__doc__ or "").partition("\n")[0]]
        for kind, interface in INTERFACES.items()
    ]
    return table(["kind", "interface", "what it is"], rows)


def contexttypes(_: str) -> str:
    """The types that side information may have."""
    return table(["type", "a value is"], [[code(name), meaning] for name, meaning in CONTEXT_TYPES.items()])


def template(argument: str) -> str:
    """A file that `slt new-plugin NAME --kind KIND` writes; the argument is KIND NAME FILE."""
    kind, name, path = argument.split()
    text = rendered(name, kind)[Path(path)]
    block = f'```{LANGUAGES[Path(path).suffix]} title="{path}"\n{text.rstrip()}\n```'
    return f"<!-- fmt: off -->\n{block}\n<!-- fmt: on -->"  # as the template has it, for ruff formats Markdown too


EXCERPTS: Mapping[str, Callable[[str], str]] = {
    "fields": fields,
    "kinds": kinds,
    "contexttypes": contexttypes,
    "template": template,
}


def refreshed(markdown: str) -> str:
    """The page with every excerpt as the installed package has it now."""

    def replace(match: re.Match[str]) -> str:
        return f"{match[1]}\n{EXCERPTS[match['name']](match['argument'])}\n\n{match[4]}"

    return EXCERPT.sub(replace, markdown)


def main() -> None:
    """Rewrite the pages whose excerpts differ, and name them."""
    for page in sorted(DOCS.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(page.name)


if __name__ == "__main__":
    main()
