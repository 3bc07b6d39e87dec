"""The documents pipeline: extract, then keywords, language and statistics at the same time, then a report.

    extract ──┬── keywords ────┬── report
              ├── language ────┤
              └── statistics ──┘

An ordinary app, written as a user would write it: `leasehold up --app runtime.demo.documents:app`.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, Field

from kernel import NonRetryable, RetryPolicy, StageContext, Workflow, WorkflowBuilder, stage
from runtime.app import App

__all__ = ["Document", "Report", "app", "documents", "extract", "keywords", "language", "report", "statistics"]


class Document(BaseModel):
    """What a run is about: a text file."""

    path: str


class Text(BaseModel):
    """Its text, or the beginning of it."""

    path: str
    text: str
    complete: bool


class Keywords(BaseModel):
    """The words that say most about a text, the most frequent first."""

    words: list[str]


class Language(BaseModel):
    """The language that the text is (or its comments are) probably written in."""

    name: str
    confidence: float


class Statistics(BaseModel):
    """How large the text is, and of which file."""

    path: str
    complete: bool
    lines: int
    words: int
    characters: int
    reading_minutes: float


class Analysis(BaseModel):
    """What the parallel stages found; the fields are their ids."""

    keywords: Keywords
    language: Language
    statistics: Statistics


class Report(BaseModel):
    """What comes out."""

    path: str
    language: str
    words: int
    keywords: list[str]
    summary: str


class ExtractConfig(BaseModel):
    """How much of a file is read."""

    max_characters: int = Field(default=200_000, ge=1)


WORD = re.compile(r"[^\W\d_]{2,}")
FREQUENT = {
    "English": "the of and to in is that for it as with not this be are or by if from",
    "German": "der die das und ist nicht ein eine zu von mit auf den im für des dem sich",
    "French": "le la les des et est une que pour dans pas qui sur au par avec ce il",
    "Spanish": "el la los las de que es una por con para no se del en un como más",
}
# What says nothing about a text: the words of every text, and, for sources, those of the programming language.
NOISE = {*" ".join(FREQUENT.values()).split(), *(word.lower() for word in keyword.kwlist), "self"}


# A plain function runs in a worker thread, so that waiting for the disk holds up nobody else.
@stage("extract", name="Extract the text", retry=RetryPolicy(max_attempts=3), timeout=timedelta(minutes=1))
def extract(ctx: StageContext[Document, ExtractConfig]) -> Text:
    """Read the file."""
    path = Path(ctx.input.path)
    limit = ctx.config.max_characters
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(limit + 1)
    except FileNotFoundError as error:
        # No later attempt will find it; any other trouble with the disk is tried again.
        raise NonRetryable(f"there is no file {path}") from error
    ctx.log("info", "extracted", characters=len(text))
    return Text(path=ctx.input.path, text=text[:limit], complete=len(text) <= limit)


@stage("keywords", name="Find keywords")
async def keywords(ctx: StageContext[Text]) -> Keywords:
    """Count the words that are not in every text."""
    counts = Counter(word for word in words_of(ctx.input.text) if len(word) > 3 and word not in NOISE)
    return Keywords(words=[word for word, _ in counts.most_common(8)])


@stage("language", name="Recognise the language")
async def language(ctx: StageContext[Text]) -> Language:
    """Compare with the most frequent words of a few languages."""
    counts = Counter(words_of(ctx.input.text))
    hits = {name: sum(counts[word] for word in frequent.split()) for name, frequent in FREQUENT.items()}
    best, total = max(hits, key=lambda name: hits[name]), sum(hits.values())
    return Language(name=best if total else "unknown", confidence=round(hits[best] / total, 2) if total else 0.0)


@stage("statistics", name="Count")
async def statistics(ctx: StageContext[Text]) -> Statistics:
    """Count lines, words and characters."""
    text = ctx.input.text
    words = sum(1 for _ in WORD.finditer(text))
    return Statistics(
        path=ctx.input.path,
        complete=ctx.input.complete,
        lines=text.count("\n") + 1,
        words=words,
        characters=len(text),
        reading_minutes=round(words / 230, 1),
    )


# Naming what it depends on spares this stage the text of the file, which would otherwise be loaded with the rest.
@stage("report", name="Write the report", dependencies=["statistics"])
async def report(ctx: StageContext[Analysis]) -> Report:
    """Put together what the three stages before have found."""
    found = ctx.input
    part = "" if found.statistics.complete else "at least "
    return Report(
        path=found.statistics.path,
        language=found.language.name,
        words=found.statistics.words,
        keywords=found.keywords.words,
        summary=f"{part}{found.statistics.words:,} words in {found.statistics.lines:,} lines, "
        f"{found.language.name}, about {', '.join(found.keywords.words[:4]) or 'nothing in particular'}",
    )


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [match.group().lower() for match in WORD.finditer(text)]


documents: Workflow[Document, Report] = (
    WorkflowBuilder("documents", name="Documents", input=Document, output=Report, version="1")
    .pipe(extract)
    .parallel([keywords, language, statistics])
    .pipe(report)
    .build()
)

app: App = App(workflows=[documents])
