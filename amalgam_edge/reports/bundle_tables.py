"""Tables and lines about a bundle. Pure functions of its manifest."""

from __future__ import annotations

from amalgam_edge.heads import SOFTMAX
from amalgam_edge.reports.tables import Column, Table, number, share
from amalgam_edge.runtime.manifest import Manifest
from amalgam_edge.runtime.manifest_heads import BundleHead
from amalgam_edge.runtime.manifest_models import Calibration, GoldCalibration


def precision_table(manifest: Manifest) -> Table:
    """Each precision's size, agreement and latency."""
    return Table(
        (
            Column("precision", numeric=False),
            Column("MB"),
            Column("agreement"),
            Column("mean KL"),
            Column("p50 ms"),
            Column("p95 ms"),
            Column("made by", numeric=False),
        ),
        tuple(
            (
                name + (" *" if name == manifest.default_precision else ""),
                f"{row.bytes / 1e6:.1f}",
                f"{row.fidelity.agreement:.2%}",
                number(row.fidelity.mean_kl, ".1e"),
                f"{row.latency_ms.p50:.2f}",
                f"{row.latency_ms.p95:.2f}",
                row.quantization,
            )
            for name, row in manifest.precisions.items()
        ),
    )


def teacher_table(manifest: Manifest) -> Table:
    """Each teacher's classes and dropout, and how often it was the most certain one."""
    measured = manifest.evaluation.heads.values() if manifest.evaluation else ()
    accuracies = {name: row.accuracy for head in measured for name, row in head.teachers.items()}
    return Table(
        (
            Column("teacher", numeric=False),
            Column("classes", numeric=False),
            Column("dropout sites"),
            Column("mean u"),
            Column("picked"),
            Column("own accuracy"),
        ),
        tuple(
            (
                teacher.name,
                ", ".join(teacher.labels),
                str(teacher.dropout_sites),
                f"{teacher.mean_uncertainty:.3f}",
                f"{teacher.picked_share:.1%}",
                share(accuracies.get(teacher.name)),
            )
            for teacher in manifest.teachers
        ),
    )


def calibration_lines(manifest: Manifest) -> list[str]:
    """What temperatures change, and below which score there is no label, a line for each head where one is set."""
    several = len(manifest.heads) > 1
    parts = [(head.name, _calibration_of(head)) for head in manifest.heads]
    return [f"{name}: {words}" if several else words for name, words in parts if words]


def _calibration_of(head: BundleHead) -> str:
    calibration, parts = head.calibration, []
    if calibration:
        lowest, highest = min(calibration.temperatures), max(calibration.temperatures)
        single = len(calibration.temperatures) == 1
        parts.append(f"temperature {lowest:.3g}" if single else f"temperatures {lowest:.3g} to {highest:.3g}")
        parts.append(f"calibration error on supervision {_change(calibration, 'held-out texts')}")
        if calibration.gold:
            parts.append(f"on gold labels {_change(calibration.gold, 'texts')}")
    if head.abstain:
        parts.append(f"no label below a score of {head.abstain:g}")
    return ", ".join(parts)


def head_table(manifest: Manifest) -> Table:
    """The questions that the student answers: their labels and teachers, and how they agree with their supervision."""
    return Table(
        (
            Column("head", numeric=False),
            Column("answers with", numeric=False),
            Column("labels"),
            Column("teachers", numeric=False),
            Column("agreement with supervision"),
            Column(f"agreement of {manifest.default_precision} with float"),
        ),
        tuple(
            (
                head.name,
                "one label" if head.activation == SOFTMAX else "any labels",
                str(len(head.labels)),
                ", ".join(manifest.teachers_of(head.name)),
                share(head.agreement),
                share(manifest.precisions[manifest.default_precision].fidelity.heads.get(head.name)),
            )
            for head in manifest.heads
        ),
    )


def _change(measured: Calibration | GoldCalibration, texts: str) -> str:
    return f"{measured.ece_before:.1%} → {measured.ece_after:.1%} ({measured.n_texts} {texts})"


def kernel_lines(manifest: Manifest) -> list[str]:
    """What ONNX Runtime fuses in each model, a line each; nothing of bundles that do not say."""
    return [
        f"{name} runs with {', '.join(f'{operator} ×{count}' for operator, count in row.kernels.items())}"
        for name, row in manifest.precisions.items()
        if row.kernels
    ]


def front_table(manifest: Manifest) -> Table:
    """Every model that was tried under a budget: what it costs, and whether another is better in all of it."""
    candidates, picked = (manifest.front.candidates, manifest.front.picked) if manifest.front else ((), "")
    return Table(
        (
            Column("model", numeric=False),
            Column("layers"),
            Column("tokens"),
            Column("MB"),
            Column("p50 ms"),
            Column("p95 ms"),
            Column("32 texts ms"),
            Column("memory MB"),
            Column("labels changed"),
            Column("mean KL"),
            Column("agreement with supervision"),
            Column("on the front", numeric=False),
        ),
        tuple(
            (
                row.precision + (" *" if row.name == picked else ""),
                number(row.layers, ".0f"),
                number(row.n_tokens, ".0f"),
                f"{row.megabytes:.1f}",
                f"{row.latency_ms:.2f}",
                f"{row.p95_ms:.2f}",
                f"{row.batch_ms:.1f}",
                number(row.memory_megabytes, ".0f"),
                f"{row.loss_percent:.2f}%",
                number(row.mean_kl, ".1e"),
                share(row.agreement),
                "yes" if row.on_front else "no",
            )
            for row in candidates
        ),
    )


def front_line(manifest: Manifest) -> str:
    """What a budget led to, in a line; empty where there was none."""
    front = manifest.front
    return f"{front.picked}: {front.reason}" if front else ""


def cascade_line(manifest: Manifest) -> str:
    """What became of a bundle's cascade, in a line; empty where none was asked for."""
    cascade = manifest.cascade
    if cascade is None:
        return ""
    asked, static = f"{cascade.agreement_asked:.2%}", cascade.static_model
    if static is None:
        best = max((attempt.agreement for attempt in cascade.attempts if attempt.share > 0), default=None)
        return (
            f"no cascade: no threshold kept {asked} agreement with the encoder on {cascade.n_texts} held-out texts "
            f"(best: {share(best)})"
        )
    return (
        f"cascade: a static student of {static.bytes / 1e6:.1f} MB answers {static.share:.1%} of "
        f"{cascade.n_texts} held-out texts, those with a probability of {static.threshold:.3f} or more; "
        f"{static.agreement:.2%} agreement with the encoder alone (asked: {asked})"
    )


def change_lines(manifest: Manifest) -> list[str]:
    """What was done to single heads since the bundle was built, a line each."""
    done = {"add": "added", "replace": "replaced", "drop": "dropped"}
    return [
        f"head '{change.head}' {done[change.action]}; the other heads' logits are equal to the bit on {change.n_texts} "
        f"texts ({', '.join(change.models)}; batches of {', '.join(map(str, change.batch_sizes))})"
        for change in manifest.changes
    ]
