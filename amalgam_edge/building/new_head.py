"""Fitting a new head to a finished bundle, whose encoder stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from amalgam_edge.building.bundling import describe_calibration, describe_labels, describe_teachers
from amalgam_edge.building.data import BuildTexts
from amalgam_edge.building.students import agreement_of_head, calibrate_head, loss_of, unsoftened
from amalgam_edge.building.supervising import supervise
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.head_outputs import HeadLayer, HiddenState, hidden_state, reading_hidden_state
from amalgam_edge.heads import Head, Heads
from amalgam_edge.methods import method_named
from amalgam_edge.methods.losses import divergence_of
from amalgam_edge.methods.supervision import Supervision, from_targets
from amalgam_edge.methods.taught_heads import TaughtHeads
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.recipe.sections import ExportSettings, MethodSettings
from amalgam_edge.runtime.bundle import TOKENIZER, Bundle
from amalgam_edge.runtime.manifest_heads import BundleHead
from amalgam_edge.runtime.manifest_origin import SourceTeacher
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.scoring.scores import TeacherScores
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.training.head_start import evenly_spaced, fit_layer

_STEPS = 500  # of the optimiser; nothing trains the layer further, as in a build


@dataclass(frozen=True)
class NewHead:
    """A head that was fitted to the hidden states of a bundle's float model.

    Attributes:
        head: The head.
        layer: Its layer, whose logits are divided by the temperatures already.
        described: The head as the manifest holds it.
        teachers: Its teachers as the manifest holds them.
    """

    head: Head
    layer: HeadLayer
    described: BundleHead
    teachers: tuple[SourceTeacher, ...]


@dataclass(frozen=True)
class FrozenEncoder:
    """A model whose hidden states heads are fitted to.

    Attributes:
        model: The model, with float products in its last layer.
        hidden: Its hidden state.
        path: Its file, for messages.
        bundle: The bundle, whose tokenizer it has.
    """

    model: onnx.ModelProto
    hidden: HiddenState
    path: Path
    bundle: Bundle

    @classmethod
    def read(cls, bundle: Bundle, file: str) -> FrozenEncoder:
        """A model of a bundle.

        Raises:
            AmalgamError: The file is damaged, or of a form that heads cannot be added to.
        """
        content = bundle.read(file)
        model = onnx.load_model_from_string(content.content)
        try:
            return cls(model, hidden_state(model.graph, bundle.heads), content.path, bundle)
        except AmalgamError as error:
            raise AmalgamError(f"{content.path}: {error}") from error

    def states(self, texts: Sequence[str]) -> np.ndarray:
        """The hidden states of texts, ``(n_texts, width)`` of float32.

        Raises:
            AmalgamError: The last layer reads something else than one vector for each text.
        """
        content = reading_hidden_state(self.model, self.hidden).SerializeToString()
        manifest = self.bundle.manifest
        runner = TextModel(
            FileContent(self.path, content),
            self.bundle.read(TOKENIZER),
            max_length=manifest.max_length,
            pad_token_id=manifest.pad_token_id,
        )
        states: np.ndarray = runner.run(texts)[0]
        if states.shape != (len(texts), self.hidden.width):
            raise AmalgamError(f"{self.path}: its last layer does not read one vector for each text; build it again")
        return states


def fit_new_head(
    encoder: FrozenEncoder,
    texts: BuildTexts,
    teachers: Sequence[Teacher],
    heads: TaughtHeads,
    scores: Sequence[TeacherScores],
    method_settings: MethodSettings,
    export_settings: ExportSettings,
) -> NewHead:
    """Fit a head to what its teachers say of training texts, then its temperatures to what they say of held-out texts.

    Args:
        encoder: The bundle's float model.
        texts: The texts.
        teachers: The teachers of the head.
        heads: The one head.
        scores: Scores of each teacher of all texts.
        method_settings: The method that makes supervision of the scores.
        export_settings: Whether temperatures are fitted.
    """
    (taught,) = heads
    head = taught.head
    needs_features = method_named(method_settings.name).needs_features([teachers])
    features = encoder.states(list(texts.corpus.texts)) if needs_features else None
    supervision = supervise(method_settings, heads, scores, features)
    rows = texts.train[evenly_spaced(len(texts.train))]
    of_train, of_held_out = (
        features[chosen] if features is not None else encoder.states(texts.corpus.take(chosen))
        for chosen in (rows, texts.held_out)
    )
    weight, bias = fit_layer(
        torch.from_numpy(of_train).double(), supervision.take(rows), loss_of(method_settings, heads), steps=_STEPS
    )
    layer = HeadLayer(weight.numpy(), bias.numpy())
    logits = layer(of_held_out)
    calibration = None
    if export_settings.calibrate:
        exact = (unsoftened(method_settings, heads, scores) or supervision).take(texts.held_out)
        calibration = calibrate_head(head, logits, exact.target, exact.weight)
    described = BundleHead(
        name=head.name,
        activation=head.activation,
        labels=describe_labels(taught),
        weight=taught.weight,
        abstain=head.abstain,
        calibration=describe_calibration(head, calibration) if calibration else None,
        agreement=agreement_of_head(head, supervision.target[texts.held_out], logits),
    )
    return NewHead(
        head,
        layer.divide(np.array(calibration.temperatures)) if calibration else layer,
        described,
        describe_teachers(teachers, heads, scores, supervision),
    )


def fit_static_layer(static: FrozenEncoder, texts: Sequence[str], head: Head, logits: np.ndarray) -> HeadLayer:
    """Fit a layer on the hidden states of a cascade's static student to what the encoder answers.

    Args:
        static: The static student.
        texts: Training texts.
        head: The head.
        logits: The encoder's logits of this head for the texts, ``(n_texts, n_labels)``.
    """
    supervision: Supervision = from_targets(Heads((head,)).probabilities(logits))
    loss = divergence_of(head)
    weight, bias = fit_layer(torch.from_numpy(static.states(texts)).double(), supervision, loss, steps=_STEPS)
    return HeadLayer(weight.numpy(), bias.numpy())
