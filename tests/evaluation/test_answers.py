"""Answers outlive a crash, and whatever stands in their file."""

from pathlib import Path

from app.categories import Category
from app.clients.calibration import ConfidenceSource
from app.evaluation.answers import Answer, AnswerFile, Tokens

ANSWER = Answer(
    "a" * 64,
    0.25,
    Category.PETS,
    0.75,
    ConfidenceSource.LOGPROBS,
    dict.fromkeys(Category, 0.125),
    calls=(Tokens(is_charged=True, input=1300, output=40),),
)
FAILED = Answer("b" * 64, 1.5, error="model_refused")


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, "a/model:name", "key")
    file.keep(ANSWER)
    file.keep(FAILED)
    file.close()
    assert file.path.name == "a-model-name-key.jsonl"
    again = AnswerFile(tmp_path, "a/model:name", "key")
    again.read()
    assert again.answers == {ANSWER.photo: ANSWER, FAILED.photo: FAILED}
    again.forget()
    assert not file.path.exists()


def test_a_line_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, "m", "key")
    file.keep(ANSWER)
    file.close()
    with file.path.open("ab") as damaged:
        damaged.write(b'{"photo": "cc\xff\n[]\n{"photo": "dd", "sec')
    after = AnswerFile(tmp_path, "m", "key")
    after.read()
    assert list(after.answers) == [ANSWER.photo]
    after.keep(FAILED)
    after.close()
    last = AnswerFile(tmp_path, "m", "key")
    last.read()
    assert last.answers == {ANSWER.photo: ANSWER, FAILED.photo: FAILED}
