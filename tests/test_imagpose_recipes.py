"""Recipes and ablations are fields, and docs/model.md lists them as they are."""

from pathlib import Path
from typing import Any

from imagpose.config import ABLATIONS, TrainGeneratorSettings, paper, recommended

PAGE = (Path(__file__).parents[1] / "docs" / "model.md").read_text()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def table_rows(heading: str) -> list[list[str]]:
    lines = PAGE[PAGE.index(heading) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return rows


def test_every_deviation_of_the_recommended_recipe_is_a_named_field_with_its_reason() -> None:
    ours, papers = (flat(recipe().model_dump()) for recipe in (recommended, paper))
    differing = {name: (str(papers[name]), str(ours[name])) for name in papers if papers[name] != ours[name]}
    listed = table_rows("| field | `paper` | `recommended` |")
    assert {row[0]: (row[1], row[2]) for row in listed} == differing
    assert all(row[3] for row in listed)


def test_the_papers_recipe_is_the_papers_text() -> None:
    text = paper()
    assert (text.noise.beta_schedule, text.noise.prediction_type, text.noise.train_timesteps) == (
        "linear",
        "epsilon",
        1000,
    )
    assert (text.steps, text.batch_size, text.learning_rate, text.weight_decay) == (300_000, 4, 5e-5, 0.01)
    assert (text.min_masked, text.max_masked, text.sample_steps, text.sample_guidance) == (1, 4, 20, 2.0)
    assert paper(steps=10).steps == 10


def test_the_ablations_of_tables_2_and_7_are_listed_as_they_are() -> None:
    rows = table_rows("| | `cross_view_attention` | `texture_tokens` | `masked_latents` | `joint_canvas` |")
    assert {row[0]: [cell == "on" for cell in row[1:]] for row in rows} == {
        name: list(switches.values()) for name, switches in ABLATIONS.items()
    }
    model = TrainGeneratorSettings().model
    assert all(set(switches) <= set(type(model).model_fields) for switches in ABLATIONS.values())


def test_every_deviation_from_paper_and_official_code_is_named_with_its_reason() -> None:
    rows = table_rows("| | paper | official code | ours | why |")
    named = {row[0] for row in rows}
    assert all(len(row) == 5 and all(row) for row in rows)
    assert named >= {
        "noise offset",
        "timesteps of a batch",
        "latents in training",
        "training in stages",
        "texture null",
        "visible views in sampling",
        "SD 2.1 (Table 3)",
        "M1 (Table 7)",
        "user study (R2G, G2R, Jab)",
    }


def test_what_the_paper_states_is_not_called_unstated() -> None:
    page = " ".join(PAGE.split())
    stated = page[page.index("stated in the paper: AdamW") : page.index("not stated there: ")]
    assert "weight decay 0.01" in stated and "1 to 4 views masked" in stated
