"""Everything that one build needs, validated; YAML in, resolved YAML out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from amalgam_edge.errors import AmalgamError
from amalgam_edge.labels import Renames
from amalgam_edge.storage.fingerprints import sha256_of_mapping

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]

_NOT_OF_THE_RESULT = frozenset(
    {
        "output",
        "work",
        "device",
        "backend",
        "threads",
        "batch_tokens",
        "report_to",
        "engine",
        "address",
        "workers",
        "launch",
    }
)


class Recipe(BaseModel):
    """One build. Every field is an option of ``amalgam-edge build`` under the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: list[str] = Field(default=[], description="A fine-tuned classifier: folder or Hub name, or NAME=PATH.")
    corpus: str = Field(default="", description="Unlabeled texts: a file, a folder, or hf://datasets/NAME.")
    text_column: str | None = Field(default=None, description="Column that holds the text.  [default: text]")
    split: str = Field(default="train", description="Split of a Hub data set.")
    labels: str | None = Field(default=None, description="YAML file that renames and merges labels per teacher.")

    passes: Annotated[int, Field(ge=2)] | Literal["auto"] = Field(
        default=10, description="Dropout passes of each teacher over each text, or auto: as many as the choice takes."
    )
    max_passes: Annotated[int, Field(ge=2)] = Field(default=10, description="The most passes that auto spends.")
    masks: Literal["systematic", "independent"] = Field(
        default="systematic", description="Dropout masks: balanced over the passes, or drawn anew for each."
    )
    dropout: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        default=None, description="Dropout probability for teachers that have none."
    )
    max_length: Annotated[int, Field(ge=4)] = Field(default=128, description="Longest text in tokens.")
    backend: Literal["auto", "onnxruntime", "torch"] = Field(
        default="auto", description="What runs teachers; auto: torch on CUDA, else onnxruntime where it is installed."
    )
    precision: Literal["fp32", "fp16"] = Field(default="fp32", description="Of the teachers; fp16 needs a GPU.")
    threads: Count | None = Field(
        default=None, description="Threads that teachers compute with.  [default: one a core]"
    )
    engine: Literal["local", "ray"] = Field(
        default="local", description="What scores the corpus: this process, or workers on a Ray cluster."
    )
    address: str | None = Field(
        default=None,
        description="Of the Ray cluster, or auto: the one that runs here.  [default: start one on this machine]",
    )
    workers: Count | None = Field(
        default=None, description="Of the Ray engine.  [default: one a GPU, else one for --threads cores, which are 1]"
    )
    batch_tokens: Count | None = Field(
        default=None,
        description="Tokens that a teacher reads at once, padding included.  [default: 1024 on a CPU, 16384 on a GPU]",
    )

    method: str = Field(
        default="refined", description='How teachers become supervision; "amalgam-edge methods" lists them.'
    )
    reweight: bool = Field(
        default=True, description="Weight each text by the margin between its two surest teachers: muka."
    )
    score_temperature: Positive = Field(default=0.2, description="Temperature of the softmax over teachers' scores.")
    refinement_rounds: Annotated[int, Field(ge=0)] = Field(
        default=4, description="Rounds that correct the teachers' weights: refined."
    )
    distillation_temperature: Positive = Field(
        default=2.0, description="Temperature of distillation on logits: vanilla-kd, uhc, cfl, dfa."
    )
    feature_weight: Weight = Field(
        default=1.0, description="Weight of drawing the student's hidden state to the teachers': cfl, dfa."
    )
    reconstruction_weight: Weight = Field(
        default=1.0, description="Weight of keeping the teachers' hidden states recoverable: cfl, dfa."
    )
    common_width: Count = Field(default=128, description="Entries of the space that hidden states share: cfl.")

    student: str = Field(
        default="",
        description="Encoder to start from: folder, Hub name, or teacher:NAME; or static, static:ENCODER: no layers.",
    )
    student_layers: Count | Annotated[list[Count], Field(min_length=1)] | None = Field(
        default=None, description="Keep this many layers of it; several, as in 3,6, for --budget.  [default: all]"
    )
    static_width: Count = Field(
        default=64, description="Entries of a static student's token vectors, at most those of its encoder."
    )
    cascade: bool = Field(
        default=False, description="Train a static student beside the encoder that answers where it is sure."
    )
    cascade_agreement: Share = Field(
        default=0.99, description="Share of texts on which the cascade must answer as the encoder alone."
    )
    epochs: Count = Field(default=5, description="Passes of training over the corpus.")
    batch_size: Count = Field(default=32, description="Texts an update, over all processes.")
    learning_rate: Positive | None = Field(
        default=None,
        description="Peak learning rate; 2e-5 suits encoders of 12 layers.  [default: 0.0001, static 0.01]",
    )
    warmup_ratio: Share = Field(default=0.1, description="Share of the updates spent warming up.")
    weight_decay: Weight = Field(default=0.01, description="Weight decay of AdamW.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="Seed of masks, head and shuffling.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    report_to: str = Field(default="none", description="Logger of the training loop (tensorboard, wandb, …).")
    launch: Count = Field(default=1, description="Processes that train the student, sharing each batch.")

    held_out: Count = Field(
        default=500, description="Texts held out for the quality gate, at most a fifth of the corpus."
    )
    max_disagreement: Share = Field(
        default=0.01, description="Share of held-out texts whose label int8 may change before it is refused."
    )
    budget: str | None = Field(
        default=None,
        description='What the model may cost, e.g. "size<=20MB, latency<=2ms, loss<=1%, memory<=150MB"; '
        "more precisions are then tried.",
    )
    trim_vocabulary: bool = Field(
        default=False,
        description="Leave out the tokens that the corpus does not use, as far as held-out texts and the budget allow.",
    )
    calibrate: bool = Field(
        default=True, description="Fit a temperature to held-out supervision, so that scores are probabilities."
    )
    abstain: Share = Field(default=0.0, description="Give no label where the score is below this; kept in the bundle.")
    evaluate: str | None = Field(default=None, description="Labelled texts to measure teachers and student on.")
    evaluate_split: str = Field(default="test", description="Split of a Hub data set, for --evaluate.")
    label_column: str = Field(default="label", description="Column that holds the gold label, for --evaluate.")

    include_torch: bool = Field(default=False, description="Put the torch student (safetensors) into the bundle too.")
    output: str = Field(default="", description="Folder of the bundle.")
    work: str | None = Field(
        default=None, description="Folder for scores and checkpoints, kept for later builds.  [default: OUTPUT.work]"
    )

    @field_validator("teachers", mode="before")
    @classmethod
    def _one_teacher_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("student_layers", mode="before")
    @classmethod
    def _commas_are_between_counts(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("student_layers", mode="after")
    @classmethod
    def _one_count_stands_alone(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def layer_counts(self) -> list[int | None]:
        """How many layers each student keeps; None stands for all."""
        return [*self.student_layers] if isinstance(self.student_layers, list) else [self.student_layers]

    @property
    def work_folder(self) -> Path:
        """Where scores and checkpoints are kept."""
        return Path(self.work) if self.work else Path(f"{self.output.rstrip('/')}.work")

    def fingerprint(self) -> str:
        """SHA-256 of what the result depends on; where it is put and what computes it are left out."""
        unused = _NOT_OF_THE_RESULT if self.passes == "auto" else _NOT_OF_THE_RESULT | {"max_passes"}
        return sha256_of_mapping({k: v for k, v in self.model_dump().items() if k not in unused})

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def read_recipe(path: str | Path | None, overrides: dict[str, Any]) -> Recipe:
    """Read a recipe and let ``overrides`` (field → value) win over it.

    Raises:
        AmalgamError: the file is missing, no YAML mapping, or has a field that is unknown or out of range.
    """
    content = read_yaml_mapping(path, "recipe") if path else {}
    try:
        return Recipe.model_validate({**content, **overrides})
    except ValidationError as error:
        errors = error.errors()
        field = str(errors[0]["loc"][0])
        # Of a field that may be of several kinds, the error that got the furthest tells the most.
        first = max((one for one in errors if one["loc"][0] == errors[0]["loc"][0]), key=lambda one: len(one["loc"]))
        where = f"{path}: " if path and field not in overrides else ""
        raise AmalgamError(f"{where}{field}: {first['msg']} (got {first['input']!r})") from error


def read_renames(path: str | Path | None) -> Renames:
    """Read a labels file: teacher (or ``*``) → {its class: name in the union}.

    Raises:
        AmalgamError: the file is missing or of another form.
    """
    if path is None:
        return {}
    content = read_yaml_mapping(path, "labels file")
    for teacher, names in content.items():
        if not isinstance(names, dict):
            raise AmalgamError(f"{path}: under '{teacher}' a mapping is expected, each class to its name in the union")
        for word in (teacher, *names, *names.values()):
            if isinstance(word, bool) or not isinstance(word, (str, int)):
                raise AmalgamError(f"{path}: under '{teacher}', {word!r} is no name; put it in quotes")
    return {str(t): {str(old): str(new) for old, new in names.items()} for t, names in content.items()}


def read_yaml_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """Read a YAML mapping, safely.

    Raises:
        AmalgamError: the file is missing or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise AmalgamError(f"{path}: no such {what}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AmalgamError(f"{path}: not a YAML {what} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise AmalgamError(f"{path}: a {what} is a YAML mapping, this is a {type(content).__name__}")
    return content
