"""The paper's figures, which stand beside ours."""

from imagpose.evaluation.published_results import TABLE
from imagpose.evaluation.table import published_lines


def paper_rows(data: str, source: str) -> dict[str, tuple[float | None, float | None, float | None]]:
    return {row.method: (row.ssim, row.lpips, row.fid) for row in TABLE if (row.data, row.source) == (data, source)}


def test_the_papers_tables_stand_beside_ours() -> None:
    market, large = paper_rows("Market-1501 128x64", "Table 1"), paper_rows("DeepFashion 512x352", "Table 1")
    assert market["IMAGPose (T1)"] == (0.3282, 0.2104, 12.659)
    assert list(large) == ["CocosNet2", "NTED", "PIDM", "PoCoLD", "CFLD", "PCDMs", "IMAGPose (T1)"]
    assert large["IMAGPose (T1)"] == (0.7718, 0.1396, 5.6298)
    variants = paper_rows("DeepFashion 256x176", "Table 3")
    assert len(variants) == 12
    own = paper_rows("DeepFashion 256x176", "Table 1")["IMAGPose (T1)"]
    assert variants["IMAGPose on SD 1.5 with DINOv2-G/14"] == own
    names = [(row.method, row.data, row.source) for row in TABLE]
    assert len(set(names)) == len(names)


def test_the_papers_figures_are_printed_as_it_prints_them_and_none_is_invented() -> None:
    page = "\n".join(published_lines())
    assert "| CFLD | DeepFashion 256x176 | 0.7378 | 0.1519 | 6.8040 | Table 1 |" in page
    assert "| IMAGPose (T1) | Market-1501 128x64 | 0.3282 | 0.2104 | 12.659 | Table 1 |" in page
    assert "| PATN | DeepFashion 256x176 | — | — | 20.751 | Table 1 |" in page  # not legible in the text at hand
