"""The words of a model card: one function for each section, from facts to blocks."""

from __future__ import annotations

import json
from typing import Any

from mojiang.core.report import Cell, Report
from mojiang.trust._document import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Grid,
    Paragraph,
    Picture,
    Section,
    show,
)
from mojiang.trust._evidence import Share
from mojiang.trust._facts import Curve, Facts

FINGERPRINT_CHARS = 12
# Below this much text a model learns form, hardly facts: the smallest corpora reported to teach facts are far larger.
LITTLE_TEXT = 1_000_000_000
LANGUAGE_NAMES = {
    "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "fr": "French", "de": "German", "es": "Spanish",
    "pt": "Portuguese", "it": "Italian", "ru": "Russian", "ar": "Arabic", "python": "Python", "c": "C", "cpp": "C++",
    "java": "Java", "javascript": "JavaScript", "typescript": "TypeScript", "rust": "Rust", "go": "Go",
    "und": "text of unknown language",
}  # fmt: skip


def write(facts: Facts, *, intended_use: str, contact: str) -> Document:
    """The whole card."""
    sections = [
        _use(facts, intended_use, contact), _architecture(facts), _data(facts), _training(facts), *_evaluation(facts),
        _compression(facts), _samples(facts), _limitations(facts), _lineage(facts), _loading(facts),
    ]  # fmt: skip
    written = [section for section in sections if section.blocks]
    return Document(facts.model.ref, _summary(facts), _figures(facts), written)


def front_matter(facts: Facts) -> str:
    """The YAML block that Hugging Face reads at the top of a model card."""
    languages = sorted({s.language for s in facts.data if len(s.language) == 2})
    licences = sorted({s.licence for s in facts.data})
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [mojiang]"]
    lines += [f"language: {json.dumps(languages)}"] if languages else []
    lines += [f"training_data_licences: {json.dumps(licences, ensure_ascii=False)}"] if licences else []
    return "\n".join([*lines, "---", "", ""])


def _summary(facts: Facts) -> str:
    kind = "instruction-tuned language model" if facts.conversational else "language model"
    made = f"{_millions(facts.num_parameters)} parameters"
    text = f"A {kind} of {made}, {facts.config.get('model_type', 'unknown')} architecture"
    if facts.parity is not None and "quantization_config" in facts.config:
        text += ", weights in int8"
    if facts.data:
        text += f", trained on {size_in_words(facts.data_bytes)} of {_languages(facts.data)}"
    return text + "."


def _figures(facts: Facts) -> list[Figure]:
    figures = []
    held_out = next((e for e in facts.evidence if e.artifact.recipe == "evaluate.heldout"), None)
    if held_out:
        s, remark = held_out.report.scalars, "" if held_out.direct else "float parent"
        if "bits_per_byte_low" in s:
            remark = f"95 %: {s['bits_per_byte_low']:.3f} to {s['bits_per_byte_high']:.3f} {remark}".strip()
        figures.append(Figure("Held-out bits per byte", f"{s['bits_per_byte']:.3f}", remark))
        if s.get("xz_bits_per_byte"):
            change = s["bits_per_byte"] / s["xz_bits_per_byte"] - 1
            figures.append(Figure("Against xz -9", f"{100 * change:+.0f} %", f"xz: {s['xz_bits_per_byte']:.3f}"))
    completion = next((e for e in facts.evidence if "parse_share" in e.report.scalars), None)
    if completion:
        s = completion.report.scalars
        remark = f"95 %: {s['parse_share_low']:.0%} to {s['parse_share_high']:.0%}"
        figures.append(Figure("Completions that parse", f"{s['parse_share']:.0%}", remark))
    figures.append(
        Figure("Parameters", _millions(facts.num_parameters), f"{size_in_words(facts.weight_bytes)} of weights")
    )
    if facts.steps:
        seconds = sum(step.manifest.seconds for step in facts.steps)
        stages = " and ".join(step.recipe.removeprefix("train.") for step in facts.steps)
        figures.append(Figure("Training time", _duration(seconds), stages))
    return figures


def _use(facts: Facts, intended_use: str, contact: str) -> Section:
    languages = _languages(facts.data) if facts.data else "the kind of text it was trained on"
    if intended_use:
        use = intended_use
    elif facts.conversational:
        use = f"Following short instructions of the kinds it was tuned on, and completing {languages}."
    else:
        use = f"Completing {languages} of the kind it was trained on; a starting point for fine-tuning."
    blocks: list[Block] = [Paragraph(use, lead="Intended use.")]
    out = "Decisions about people, and any use in which a wrong answer does harm and nobody checks it."
    blocks.append(Paragraph(out, lead="Out of scope."))
    if contact:
        blocks.append(Paragraph(contact, lead="Contact."))
    return Section("Use", blocks)


def _architecture(facts: Facts) -> Section:
    names = {
        "model_type": "Family", "num_hidden_layers": "Layers", "hidden_size": "Hidden size",
        "num_attention_heads": "Query heads", "num_key_value_heads": "Key/value heads", "head_dim": "Head dimension",
        "intermediate_size": "Feed-forward size", "vocab_size": "Vocabulary",
        "max_position_embeddings": "Context, tokens", "tie_word_embeddings": "Tied embeddings",
    }  # fmt: skip
    rows: list[list[Cell]] = [["Parameters", f"{facts.num_parameters:,}"]]
    for key, label in names.items():
        if key in facts.config:
            rows.append([label, _plain(facts.config[key])])
    return Section("Architecture", [Grid(["", ""], rows)])


def _data(facts: Facts) -> Section:
    if not facts.data:
        return Section("Training data", [Paragraph("Not known: no training step of this model is in the store.")])
    kinds: dict[str, float] = {}
    for share in facts.data:
        label = share.language if share.format == "code" else f"{share.language} · {share.format}"
        kinds[label] = kinds.get(label, 0.0) + share.bytes / 1e6
    from mojiang.trust._plots import bars

    light, dark = bars(kinds, "MB")
    caption = "Training text by language and format."
    blocks: list[Block] = [Picture("data", caption, light, dark)]
    rows: dict[tuple[str, str], list[int]] = {}
    for share in facts.data:
        row = rows.setdefault((share.source, share.licence), [0, 0])
        row[0] += share.documents
        row[1] += share.bytes
    table: list[list[Cell]] = [[source, licence, *counts] for (source, licence), counts in rows.items()]
    blocks.append(Grid(["source", "licence", "documents", "bytes"], table, "Sources of the training documents"))
    if processing := _processing(facts):
        blocks.append(Grid(["step", "in", "kept", "dropped"], processing, "Documents through each data step"))
    return Section("Training data", blocks)


def _processing(facts: Facts) -> list[list[Cell]]:
    """Row accounting of the data steps, first step first."""
    rows: list[list[Cell]] = []
    for artifact in reversed(facts.lineage):
        if artifact.kind == "dataset" and "report.json" in artifact.manifest.files:
            s = Report.load(artifact.path).scalars
            if "documents_in" in s:
                counts = [s["documents_in"], s.get("documents_kept"), s.get("documents_dropped")]
                rows.append([f"{artifact.recipe} ({artifact.ref})", *counts])
    return rows


def _training(facts: Facts) -> Section:
    blocks: list[Block] = []
    for number, step in enumerate(facts.steps):
        panels = _panels(facts.curves.get(step.ref, {}))
        if panels:
            from mojiang.trust._plots import curves

            light, dark = curves(panels, "training step")
            caption = f"{step.recipe}: {step.ref}, {_duration(step.manifest.seconds)}."
            blocks.append(Picture(f"training-{number + 1}", caption, light, dark))
    rows: list[list[Cell]] = []
    columns = ["setting", *[step.ref for step in facts.steps]]
    settings = [_flat(step.manifest.config) for step in facts.steps]
    for key in dict.fromkeys(key for config in settings for key in config):
        rows.append([key, *[_plain(config.get(key)) for config in settings]])
    if rows:
        blocks.append(Grid(columns, rows, "Settings of the training steps"))
    measured = [dict(step.metrics) for step in facts.steps]
    results: list[list[Cell]] = [
        [key, *[metrics.get(key) for metrics in measured]]
        for key in dict.fromkeys(key for metrics in measured for key in metrics)
    ]
    if results:
        blocks.append(Grid(["measured while training", *columns[1:]], results))
    return Section("Training", blocks)


def _panels(found: dict[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves of the same quantity share a panel: training and validation loss, training and validation bits."""
    panels: dict[str, dict[str, Curve]] = {}
    for label, ending in (("Loss, nats per token", "loss"), ("Bits per byte", "bits_per_byte")):
        ours = {name: curve for name, curve in found.items() if name.endswith(ending) and len(curve[0]) > 1}
        lines = {name.replace("_", " "): curve for name, curve in ours.items()}
        if lines:
            panels[label] = lines
    return panels


def _evaluation(facts: Facts) -> list[Section]:
    blocks: list[Block] = []
    for evidence in facts.evidence:
        report, artifact = evidence.report, evidence.artifact
        whose = "this model" if evidence.direct else "the model it was made from"
        where = f"Measured on {whose} by {artifact.recipe}, report {artifact.ref}."
        blocks.append(Paragraph(f"{report.verdict}. {where}", lead=f"{report.title}."))
        blocks += [Grid(table.columns, table.rows, table.title) for table in report.tables]
        notes = [finding.text for finding in report.findings if finding.level == "info"]
        if notes:
            blocks.append(Bullets(notes))
    if not blocks:
        blocks.append(Paragraph("Not evaluated: the store holds no report on this model."))
    return [Section("Evaluation", blocks)]


def _compression(facts: Facts) -> Section:
    if facts.parity is None or not facts.model.recipe.startswith("compress."):
        return Section("Compression")
    blocks: list[Block] = [Paragraph(f"{facts.parity.verdict}.", lead=f"{facts.parity.title}.")]
    blocks += [Grid(table.columns, table.rows, table.title) for table in facts.parity.tables]
    blocks.append(Bullets([finding.text for finding in facts.parity.findings]))
    return Section("Compression", blocks)


def _samples(facts: Facts) -> Section:
    blocks: list[Block] = []
    for evidence in facts.evidence:
        for sample in evidence.report.samples[:3]:
            blocks.append(Code(sample.text, prompt=sample.prompt, title=sample.title))
    intro = "Held-out openings (grey) and what the model wrote next, not selected."
    return Section("Samples", [Paragraph(intro), *blocks] if blocks else [])


def _limitations(facts: Facts) -> Section:
    items = []
    if facts.data:
        items.append(f"It has seen {_languages(facts.data)} only, and is not to be relied on for anything else.")
        if facts.data_bytes < LITTLE_TEXT:
            items.append(
                f"{size_in_words(facts.data_bytes)} of text teaches form rather than facts: "
                "what it states may be invented."
            )
        unknown = sum(s.bytes for s in facts.data if s.licence == "unknown")
        if unknown:
            items.append(f"The licence of {unknown / facts.data_bytes:.0%} of the training text is not known.")
    context = facts.config.get("max_position_embeddings")
    if context:
        items.append(f"Its context is {context:,} tokens; what came before that is forgotten.")
    completion = next((e.report.scalars for e in facts.evidence if "parse_share" in e.report.scalars), None)
    if completion and completion["parse_share"] < 1:
        share = 1 - completion["parse_share"]
        items.append(f"{share:.0%} of its function bodies did not parse; those that parse may still be wrong.")
    items += [f.text for e in facts.evidence for f in e.report.findings if f.level != "info"]
    if not any(e.artifact.recipe.startswith("trust.") and e.artifact.recipe != "trust.gate" for e in facts.evidence):
        items.append("Safety, fairness, privacy and memorisation of training text have not been evaluated.")
    return Section("Limitations", [Bullets(items)])


def _lineage(facts: Facts) -> Section:
    rows: list[list[Cell]] = [
        [a.ref, a.kind, a.manifest.recipe, a.fingerprint[:FINGERPRINT_CHARS], a.manifest.created[:16].replace("T", " ")]
        for a in facts.lineage
    ]
    blocks: list[Block] = [Grid(["artifact", "kind", "made by", "fingerprint", "created"], rows)]
    versions: dict[str, str] = {}
    for artifact in facts.lineage:
        versions |= artifact.manifest.software
    software: list[list[Cell]] = [[name, versions[name]] for name in sorted(versions)]
    blocks.append(Grid(["software", "version"], software))
    return Section("Lineage and software", blocks)


def _loading(facts: Facts) -> Section:
    ref = facts.model.ref
    example = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'folder = "exported"  # made by: mojiang export {ref} exported\n'
        "model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)"
    )
    blocks: list[Block] = [Code(f"mojiang chat {ref}\nmojiang serve {ref}", language="bash")]
    return Section("How to use it", [*blocks, Code(example, language="python")])


def _languages(data: list[Share]) -> str:
    sizes: dict[str, int] = {}
    for share in data:
        sizes[share.language] = sizes.get(share.language, 0) + share.bytes
    total = sum(sizes.values()) or 1
    # A language of less than one percent would promise more than there is.
    names = [LANGUAGE_NAMES.get(k, k) for k, v in sorted(sizes.items(), key=lambda item: -item[1]) if v / total >= 0.01]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return show(value) if isinstance(value, int | float) else str(value)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def size_in_words(num_bytes: int) -> str:
    """Bytes in the unit that suits them.

    >>> size_in_words(1_234_567)
    '1.2 MB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
