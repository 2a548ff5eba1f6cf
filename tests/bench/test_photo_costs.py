"""What a thousand photos cost, by a file of prices."""

from pathlib import Path

import pytest

from bench import photo_costs


def test_a_row_for_each_provider_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert photo_costs.main([]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    cells = {tuple(row[0:1] + row[2:4]): row for row in rows if row[0] != "---"}
    assert len(cells) == 2 * len(photo_costs.EDGES) + 1
    # 32 x 24 patches of 32 pixels, 1.2 tokens each; 37 x 28 of 28 pixels.
    assert cells["openai", "1024", "–"][4] == "922"
    assert cells["claude", "1024", "–"][4] == "1036"
    assert cells["openai", "1024", "low"][4:] == cells["openai", "512", "–"][4:]
    for row in cells.values():
        direct, batch = float(row[6]), float(row[7])
        assert batch == pytest.approx(direct / 2, abs=0.001)


def test_a_long_fixed_part_is_paid_at_the_price_of_cached_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = tmp_path / "prices.toml"
    text = photo_costs.PRICES.read_text(encoding="utf-8")
    prices.write_text(text.replace("cached_from_tokens = 4096", "cached_from_tokens = 512"), encoding="utf-8")
    assert photo_costs.main(["--prices", str(prices)]) == 0
    said = capsys.readouterr().out
    assert "claude-haiku-5-5: the fixed part of the prompt has about 753 tokens, and is kept" in said
    assert "gpt-6-luna: the fixed part of the prompt has about 565 tokens, and is too short to be kept" in said
