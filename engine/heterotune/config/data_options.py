"""What a run file may say about data: sources, row formats, partitions, held-out sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from heterotune.config.field_types import (
    LARGEST_LIST,
    Count,
    Flag,
    Integer,
    Name,
    NotNegative,
    Number,
    Positive,
    Section,
    Text,
)
from heterotune.config.row_fields import ClassFields, MessageFields, RowFields
from heterotune.config.row_template import template_problem

Labels = Annotated[tuple[Text, ...], Field(min_length=1, max_length=LARGEST_LIST)]


class SourceEntry(Section):
    """One source, where a path or a hub id alone does not say enough."""

    path: Text | None = None
    """File, folder, folder of `save_to_disk`, or hub id; this or `lines`."""
    lines: Annotated[dict[Name, Text], Field(min_length=1, max_length=LARGEST_LIST)] | None = None
    """{field: file}: text files whose lines belong together, line by line; instead of `path`."""
    files: Text | None = None
    """Glob pattern of the files to read in a folder, e.g. "train_*.json"; null = all that can be read."""
    config: Text | None = None
    """Configuration of a hub data set; null = its default."""
    split: Text | None = None
    """Split of a hub data set (also "train[:1000]") or of a `save_to_disk` folder; null = train."""
    revision: Text | None = None
    """Branch, tag or commit of a hub data set; null = its main branch."""
    cut: Literal["auto", "blank_lines", "lines", "files"] = "auto"
    """Where text files are cut into rows; "auto" = at blank lines if it is one file, else one row a file."""
    pattern: Text | None = None
    """RE2 expression searched in each row of text; its named groups become fields: "^(?P<speaker>[^\\n:]+):"."""
    fields: RowFields | None = None
    """Row format of this source; null = `data.fields`."""
    task: Name | None = None
    """Name of the task, for `partition.by: task`, reports and natural owners; null = none."""

    @model_validator(mode="after")
    def _check_place(self) -> SourceEntry:
        """One place, and options that go with it."""
        if (self.path is None) == (self.lines is None):
            raise ValueError("needs either path or lines. Give {path: FILE_OR_HUB_ID} or {lines: {field: FILE}}.")
        if self.lines is not None:
            names = ("files", "config", "split", "revision", "pattern")
            given = [name for name in names if getattr(self, name) is not None]
            if given or self.cut != "auto":
                raise ValueError(f"{(*given, 'cut')[0]} does not go with lines. Remove it, or give path.")
        return self


def _source_kind(given: Any) -> str:
    """Tell a path from a mapping and a list."""
    if isinstance(given, (list, tuple)):
        return "list"
    return "SourceEntry" if isinstance(given, (dict, SourceEntry)) else "text"


OneSource = Annotated[
    Annotated[Text, Tag("text")] | Annotated[SourceEntry, Tag("SourceEntry")], Discriminator(_source_kind)
]
Source = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[SourceEntry, Tag("SourceEntry")]
    | Annotated[tuple[OneSource, ...], Field(min_length=1, max_length=LARGEST_LIST), Tag("list")],
    Discriminator(_source_kind),
]


class PartitionConfig(Section):
    """How the documents are divided among the clients."""

    by: Literal["natural", "iid", "dirichlet", "pathological", "quantity", "task", "model_type", "drawn"] = "natural"
    """By owner, at random, by skewed shares or labels, by sizes, by task, by model type; drawn anew for each client."""
    key: Text | None = None
    """Row field with the owner (natural), the label or the task; null = the corpus's own."""
    groups: Text | None = None
    """JSON file that maps values of `key` to owners or labels: {owner: [values]} or {value: owner}."""
    alpha: Positive = 0.3
    """Dirichlet concentration, above 0; small = skewed."""
    labels_per_client: Count = 2
    """Labels of each client under `pathological`, at least 1."""
    sizes: Literal["dirichlet", "power_law"] = "dirichlet"
    """Clients' sizes under `quantity`: Dirichlet(alpha) shares, or shares that fall as 1 / place^exponent."""
    exponent: NotNegative = 1.0
    """Exponent of `sizes: power_law`, at least 0; 0 = equal sizes."""
    holds: Annotated[dict[Name, Labels], Field(max_length=LARGEST_LIST)] = {}
    """Under `model_type`: {model type: [labels]} that its clients may hold; a type that is left out may hold all."""
    within: Literal["iid", "dirichlet"] = "iid"
    """Under `model_type` and `task`: how a label or task is divided; under `drawn`: each client's labels."""
    rows_per_client: Count | None = None
    """Under `drawn`: rows that a client draws from all rows, at least 1; several clients may hold a row."""
    rows_spread: NotNegative = 0.0
    """Under `drawn`: standard deviation of the logarithm of a client's rows, at least 0; 0 = all have as many."""
    min_documents: Count = 1
    """Fewest documents of a client, at least 1; drawn shares are drawn again (at most 100 times) while one has less."""

    @model_validator(mode="after")
    def _check_goes_together(self) -> PartitionConfig:
        """Keys that another key needs."""
        if self.groups is not None and self.key is None:
            raise ValueError("groups needs key. Name the row field whose values the file maps.")
        if (self.by == "model_type") != bool(self.holds):
            raise ValueError("by: model_type and holds go together. Give {model type: [labels]}, or another by.")
        if (self.by == "drawn") != (self.rows_per_client is not None):
            raise ValueError("by: drawn and rows_per_client go together. Give the rows of a client, or another by.")
        if self.rows_spread and self.by != "drawn":
            raise ValueError(f"rows_spread = {self.rows_spread} needs by: drawn. Remove it.")
        return self


class DataConfig(Section):
    """Which text the clients hold."""

    source: Source
    """"embedded:stdlib", a file, a folder, a hub id, a mapping with path and options, or a list of these."""
    root: Text | None = None
    """Folder that relative paths of this section begin in; null = the working directory."""
    fields: RowFields | None = None
    """Row format by its fields: {text}, {prompt, response}, ... (docs/data.md); null for text."""
    template: Text = "auto"
    """Prompt format: "plain", "alpaca", "chat" (the tokenizer's), or a text with {field} in it; "auto" = by fields."""
    separator: Annotated[str, Field(max_length=100)] = "\n"
    """Text between a prompt and its response; a chat template has its own."""
    loss: Literal["response", "all"] = "response"
    """Tokens of a prompt with response on which the loss is taken: the response and its end, or all."""
    partition: PartitionConfig = PartitionConfig()
    """How the documents are divided among the clients."""
    max_tokens: Annotated[Integer, Field(ge=8, le=2**20)] = 128
    """Longest row in tokens, at least 8."""
    heldout: Literal["clients", "pool"] = "clients"
    """What `heldout_fraction` is a share of: each client's rows, or all documents before they are divided."""
    heldout_fraction: Annotated[Number, Field(gt=0, le=0.5)] = 0.1
    """Share kept for evaluation, above 0 and at most 0.5."""
    test: Source | None = None
    """Held-out documents of the whole fleet, a source like `source`; clients then keep all rows; null = `heldout`."""
    max_rows_per_client: Count | None = None
    """Most training rows of a client, at least 1; null = all."""
    empty_client: Literal["error", "drop"] = "error"
    """What to do with a client that gets no rows."""
    public: Source | None = None
    """Public text for the alignment, a source like `source`; null = the embedded public modules. Where rows have
    classes, text of the same kind is taken for questions from which model types learn of one another's answers
    (`heterotune.distill_every`): questions of another task help less there, other text may harm (docs/evidence.md)."""
    tokenizer: Text | None = None
    """Folder, file or hub id of the fleet's tokenizer; null = the one beside the models."""
    streaming: Flag = False
    """Read documents when they are needed and keep rows in mapped files, shared by ranks; for corpora beyond memory."""
    cache: Text | None = None
    """Folder of the mapped files of `streaming`; null = $HETEROTUNE_CACHE, else ~/.cache/heterotune."""

    @model_validator(mode="after")
    def _check_goes_together(self) -> DataConfig:
        """Keys that exclude one another, and a template that can be read."""
        if self.test is not None and self.heldout == "pool":
            raise ValueError("heldout: pool and test exclude each other. Drop one of the two.")
        if self.template not in ("auto", "chat") and isinstance(self.fields, MessageFields):
            raise ValueError("fields.messages needs template: chat. Give it, or name other fields.")
        if problem := template_problem(self.template):
            raise ValueError(problem)
        if self.partition.by == "drawn":
            self._check_drawn()
        return self

    def _check_drawn(self) -> None:
        """Clients that draw from the same rows hold some in common."""
        if self.heldout == "clients" and self.test is None:
            text = "partition.by: drawn lets clients hold rows in common, so one's held-out row would be another's"
            raise ValueError(f"{text} training row. Set heldout: pool, or name a test source.")
        if self.max_rows_per_client is not None:
            text = f"max_rows_per_client = {self.max_rows_per_client} does not go with partition.by: drawn"
            raise ValueError(f"{text}, where partition.rows_per_client says it. Remove it.")

    @property
    def sources(self) -> tuple[SourceEntry, ...]:
        """`source` as a list of entries."""
        return as_entries(self.source)

    @property
    def asks_questions(self) -> bool:
        """Whether rows have classes, and public text is named that can be questions of the same kind."""
        named = any(not (entry.path or "").startswith("embedded:") for entry in as_entries(self.public or ()))
        return named and isinstance(self.fields, ClassFields) and all(each.fields is None for each in self.sources)

    @property
    def named_places(self) -> tuple[str, ...]:
        """Everything that the section names by a path or a hub id, paths of data inside `root`."""
        others = (source for source in (self.test, self.public) if source is not None)
        entries = (*self.sources, *(entry for source in others for entry in as_entries(source)))
        places = [place for entry in entries for place in (entry.path, *(entry.lines or {}).values())]
        data = [str(Path(self.root or "") / place) for place in (*places, self.partition.groups) if place is not None]
        return (*data, *(place for place in (self.root, self.tokenizer, self.cache) if place is not None))


def as_entries(source: str | SourceEntry | tuple[str | SourceEntry, ...]) -> tuple[SourceEntry, ...]:
    """Return a source as a list of entries; a path is an entry with a path only."""
    items = source if isinstance(source, tuple) else (source,)
    return tuple(SourceEntry(path=item) if isinstance(item, str) else item for item in items)
