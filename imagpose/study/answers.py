"""Keys and answers as files, and what is refused: another pack's answers, doubled ones, answers to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.reading.json_values import read_object
from imagpose.study.arrangement import ANSWERS_FORMAT, KEY_FORMAT, VERSION

TELLING = 10
"""So many answers in the same order are no chance: the page shuffles for each person (10! orders)."""


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Form = TypeVar("Form", bound=_Form)


class JudgedItem(_Form):
    """An item of 'real or generated?'."""

    task: Literal["real"]
    generator: str
    """Whose part it stands in, also of a real picture."""
    truth: Literal["real", "generated"]
    picture: str

    def meaning(self, value: str) -> str | None:
        """What an answer says; None if it is none."""
        return value if value in ("real", "generated") else None


class BestItem(_Form):
    """An item of 'which is best?'."""

    task: Literal["best"]
    sources: list[str]
    pose: str
    choices: dict[str, str]
    """Generator of each choice."""
    pictures: dict[str, str]

    def meaning(self, value: str) -> str | None:
        """The generator that an answer votes for; None if it is none."""
        return self.choices.get(value)


Item = Annotated[JudgedItem | BestItem, Field(discriminator="task")]


class StudyKey(_Form):
    """What ``key.json`` holds."""

    format: Literal["imagpose-user-study-key"]
    version: Literal[1]
    pack: str
    seed: int
    generators: list[str]
    items: dict[str, Item]

    @model_validator(mode="after")
    def _names_every_generator_once(self) -> Self:
        """What is asked about a generator that the key does not name would be counted for none."""
        if twice := [name for name, count in Counter(self.generators).items() if count > 1]:
            raise ValueError(f"generators: '{twice[0]}' stands there twice")
        asked = (
            name
            for item in self.items.values()
            for name in ([item.generator] if item.task == "real" else item.choices.values())
        )
        if unknown := sorted(set(asked) - set(self.generators)):
            raise ValueError(f"items: '{unknown[0]}' is none of the generators")
        return self


class _Answers(_Form):
    format: Literal["imagpose-user-study-answers"]
    version: Literal[1]
    pack: str
    session: str = Field(pattern=r"^[0-9a-f]{32}$")
    answers: list[Annotated[list[str], Field(min_length=2, max_length=2)]]


@dataclass(frozen=True, kw_only=True)
class Rater:
    """One person's answers."""

    file: Path
    session: str
    meanings: Mapping[str, str]
    """By item: 'real', 'generated', or the generator voted for."""


def read_key(path: Path) -> StudyKey:
    """The key of a study.

    Raises:
        InputError: it is none.
    """
    return _read(path, StudyKey, f"the {KEY_FORMAT} (version {VERSION}) that 'user-study pack' writes")


def read_raters(files: Sequence[Path], key: StudyKey) -> list[Rater]:
    """Everybody's answers.

    Raises:
        InputError: a file is none of answers, belongs to another page, stands for a person who is there already, or
            answers what was not asked.
    """
    raters: list[Rater] = []
    contents: dict[str, Path] = {}
    for file in files:
        given = _read(file, _Answers, f"the {ANSWERS_FORMAT} (version {VERSION}) that the page saves")
        if given.pack != key.pack:
            raise InputError(f"{file} answers another page than the key's; score each page's answers by themselves")
        rater = Rater(file=file, session=given.session, meanings=_meanings(file, given.answers, key))
        _refuse_doubled(rater, given.answers, raters, contents)
        raters.append(rater)
    return raters


def _refuse_doubled(
    rater: Rater, answers: list[list[str]], earlier: Sequence[Rater], contents: dict[str, Path]
) -> None:
    """Refuse a file whose content or person was read before; `contents` collects what was read."""
    same = [other.file for other in earlier if other.session == rater.session]
    marks = [file_sha256(rater.file), *([repr(answers)] if len(answers) >= TELLING else [])]
    same += [contents[mark] for mark in marks if mark in contents]
    if same:
        raise InputError(f"{rater.file} holds the same person's answers as {same[0]}; give one of them")
    contents.update(dict.fromkeys(marks, rater.file))


def _meanings(file: Path, answers: list[list[str]], key: StudyKey) -> dict[str, str]:
    found: dict[str, str] = {}
    for identifier, value in answers:
        item = key.items.get(identifier)
        if item is None:
            raise InputError(f"{file} answers '{identifier}', which the page did not ask; somebody has changed it")
        if identifier in found:
            raise InputError(f"{file} answers '{identifier}' twice; somebody has changed it")
        meaning = item.meaning(value)
        if meaning is None:
            raise InputError(f"{file} answers '{identifier}' by '{value}', which is no choice; somebody has changed it")
        found[identifier] = meaning
    return found


def _read(path: Path, form: type[Form], expected: str) -> Form:
    try:
        return form.model_validate(read_object(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
    raise InputError(f"{path} cannot be read ({' '.join(reason.split())}); give {expected}")
