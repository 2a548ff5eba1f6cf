"""`image-classifier evaluate`: how right a model is on labelled photos, and which of two is better.

What it asks is paid for outside the service: no budget limits it, and no entry of the cache comes of it.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.output import messages, printable, say, write_json

if TYPE_CHECKING:
    from app.config.settings import Settings
    from app.evaluation.answers import AnswerFile
    from app.evaluation.candidates import Candidate
    from app.evaluation.cascade import Scored
    from app.evaluation.page import Judgement
    from app.evaluation.report import Judged
    from app.evaluation.run import HashedPhoto

MAX_CONCURRENCY = 64
_DEFAULT_CONCURRENCY = 4
SHOWN_MISTAKES = 10
INTERRUPTED = 130

PromptFile = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Instructions in place of ours.")]


def evaluate(
    folder: Annotated[
        Path, typer.Argument(help="Photos in folders named after the categories.", exists=True, file_okay=False)
    ],
    provider: Annotated[
        str | None,
        typer.Option(help="PROVIDER, PROVIDER=MODEL, a name of MODELS, or a file of LLM_... variables."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="A second model, named in the same way.")] = None,
    prompt: PromptFile = None,
    against_prompt: PromptFile = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", "-c", min=1, max=MAX_CONCURRENCY, help="Photos at once.")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Fit the model's temperature and keep it.")] = False,
    cascade: Annotated[
        bool,
        typer.Option("--cascade", help="Choose the local model's thresholds for LLM_PROVIDER=cascade and keep them."),
    ] = False,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="With --cascade: by heads that have not seen a photo's source.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier answers, and ask again.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether it may cost so much.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Write a page with the worst mistakes.")] = None,
) -> None:
    """Measure a model on labelled photos: accuracy, calibration, time, cost; or two, side by side.

    Answers are kept in DATA_DIR/evaluations, so that the command goes on where it was stopped. The exit status is 1 if
    the model could not be asked about all photos, 130 after Ctrl-C. With --cascade only the local model is asked, and
    the other one (--against, or the service's) is asked for its price alone.
    """
    from app.clients.local.training.labelled import find_labelled_photos
    from app.config.settings import load_settings
    from app.evaluation import calibrating
    from app.evaluation.candidates import NoCandidate, find_candidate
    from app.evaluation.run import hash_photos
    from app.observability.logging import configure_logging

    _check_options(
        is_prompted=prompt is not None or against_prompt is not None,
        asks_another=provider is not None,
        calibrate=calibrate,
        cascade=cascade,
        cross_validate=cross_validate,
        html=html,
    )
    settings = load_settings()
    # Not to LOG_DIR, as of every command on the server itself; standard error shows what goes wrong.
    configure_logging(settings.model_copy(update={"log": settings.log.model_copy(update={"folder": None})}))
    if cascade:
        _cascade(folder, against, settings, cross_validate=cross_validate, fresh=fresh, as_json=as_json)
        return
    named = [(provider, prompt)]
    if against is not None or against_prompt is not None:
        named.append((provider if against is None else against, against_prompt))
    try:
        candidates = [find_candidate(name, instructions, settings) for name, instructions in named]
        labelled = find_labelled_photos(folder)
    except (NoCandidate, ValueError) as error:
        say(str(error))
        raise typer.Exit(2) from None
    if len({candidate.key for candidate in candidates}) < len(candidates):
        say("Both are the same model with the same prompt.")
        raise typer.Exit(2)
    photos, unreadable = hash_photos(labelled)
    for each in unreadable:
        say(f"{each.path}: not a photo that the service takes")
    asked = [(candidate, _answers(candidate, settings, fresh=fresh)) for candidate in candidates]
    _confirm(asked, photos, settings, yes=yes)
    if fresh:
        # Not before it is clear that others will be asked for: they were paid for.
        for _, file in asked:
            file.forget()
    missing = sum(_ask(candidate, file, photos, concurrency) for candidate, file in asked)
    if calibrate:
        for candidate, file in asked:
            say(calibrating.calibrate(candidate, photos, file.answers))
    _tell([_judged(candidate, file, photos, settings) for candidate, file in asked], html, as_json=as_json)
    if missing:
        raise typer.Exit(1)


def _check_options(
    *, is_prompted: bool, asks_another: bool, calibrate: bool, cascade: bool, cross_validate: bool, html: Path | None
) -> None:
    if calibrate and is_prompted:
        raise typer.BadParameter("--calibrate is for the prompt that the service asks with.")
    if cross_validate and not cascade:
        raise typer.BadParameter("--cross-validate is for --cascade.")
    if cascade and (is_prompted or asks_another or calibrate or html is not None):
        raise typer.BadParameter("--cascade takes --against, --cross-validate, --fresh and --json only.")
    if html is not None and not html.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {html.parent}.", param_hint="--html")


def _cascade(
    folder: Path, against: str | None, settings: "Settings", *, cross_validate: bool, fresh: bool, as_json: bool
) -> None:
    """Choose, measure and keep the thresholds of the local model; tell what a cascade costs by the price of the other.

    Raises:
        Exit: there are too few photos, or the local model cannot look at them.
    """
    from app.clients.errors import ModelConfigurationError
    from app.clients.local.training.labelled import find_labelled_photos
    from app.clients.thresholds import write_thresholds
    from app.config.model import LOCAL_PROVIDER
    from app.evaluation import tables
    from app.evaluation.candidates import NoCandidate, find_candidate
    from app.evaluation.cascade import MIN_PHOTOS, Scored, choose_and_measure
    from app.evaluation.cost import costs_of_cascade
    from app.evaluation.run import hash_photos

    try:
        local = find_candidate(LOCAL_PROVIDER, None, settings)
        other = find_candidate(against, None, settings)
        photos, unreadable = hash_photos(find_labelled_photos(folder))
    except (NoCandidate, ValueError) as error:
        say(str(error))
        raise typer.Exit(2) from None
    for each in unreadable:
        say(f"{each.path}: not a photo that the service takes")
    if len(photos) < MIN_PHOTOS:
        say(f"{len(photos)} photos are too few to choose thresholds by; {MIN_PHOTOS} are needed.")
        raise typer.Exit(2)
    if cross_validate:
        scored, repeats = _cross_validated(photos)
    else:
        file = _answers(local, settings, fresh=fresh)
        if fresh:
            file.forget()
        if _ask(local, file, photos, None):
            raise typer.Exit(1)
        answers = [(photo.labelled, file.answers[photo.sha256].probabilities) for photo in photos]
        scored = [Scored(photo.category, photo.source, said) for photo, said in answers if said is not None]
        repeats = 1
    thresholds = choose_and_measure(
        scored, settings.model.cascade_target_precision, repeats=repeats, cross_validated=cross_validate
    )
    file_of_thresholds = settings.model.cascade_file
    try:
        if file_of_thresholds is not None:
            write_thresholds(file_of_thresholds, local.client.model, thresholds)
    except (OSError, ModelConfigurationError) as error:
        say(str(error))
        raise typer.Exit(1) from None
    costs = costs_of_cascade(other, _answers(other, settings, fresh=False).answers.values(), thresholds)
    if as_json:
        write_json(asdict(thresholds) | {"cost_per_thousand": costs, "currency": settings.spending.currency})
    else:
        tables.cascade(thresholds, costs, settings.spending.currency, Console())
    say(f"The thresholds of {local.client.model} are in {file_of_thresholds}, for the next start of a service.")


def _cross_validated(photos: "list[HashedPhoto]") -> "tuple[list[Scored], int]":
    from importlib.metadata import PackageNotFoundError, version

    from app.clients.local.network import WeightsMissing
    from app.clients.local.training.train import SEEDS
    from app.evaluation.cross_validation import cross_validated

    try:
        version("scikit-learn")
    except PackageNotFoundError:
        say("It needs scikit-learn: .venv/bin/python -m pip install --editable '.[train]'")
        raise typer.Exit(2) from None
    try:
        with _progress("local", len(photos)) as advance:
            return cross_validated([each.labelled for each in photos], advance), len(SEEDS)
    except WeightsMissing:
        say("The local model's weights are missing: make model")
        raise typer.Exit(1) from None


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, disable=not messages.is_terminal, transient=True) as progress:
        task = progress.add_task(escape(printable(label)), total=total)
        yield lambda: progress.advance(task)


def _tell(judgements: "list[Judgement]", html: Path | None, *, as_json: bool) -> None:
    """Print the reports, and what is between two; write the page."""
    from app.evaluation import page, tables
    from app.evaluation.report import compare

    reports = [each.report for each in judgements]
    comparison = None
    if len(judgements) == 2:
        one, other = judgements
        comparison = compare(one.judged, other.judged, (one.report.spent, other.report.spent))
    if as_json:
        between = None if comparison is None else asdict(comparison)
        models = [
            asdict(each.report) | {"mistakes": [_mistake(one) for one in tables.worst(each.judged, None)]}
            for each in judgements
        ]
        write_json({"models": models, "comparison": between})
    else:
        output = Console()
        for judgement in judgements:
            tables.show(judgement.report, output)
            output.print()
            for mistake in tables.worst(judgement.judged, SHOWN_MISTAKES):
                say(f"{mistake.path}: {mistake.category} {mistake.confidence:.2f}")
        if comparison is not None:
            tables.compare(comparison, (reports[0].model, reports[1].model), output)
    if html is not None:
        html.write_text(page.render(judgements, comparison), encoding="utf-8")
        say(f"wrote {html}")


def _mistake(judged: "Judged") -> dict[str, object]:
    path, truth, said = judged.path, judged.truth.value, str(judged.category)
    return {"photo": str(path), "truth": truth, "category": said, "confidence": judged.confidence}


def _answers(candidate: "Candidate", settings: "Settings", *, fresh: bool) -> "AnswerFile":
    from app.evaluation.answers import AnswerFile

    file = AnswerFile(settings.data_dir / "evaluations", candidate.client.model, candidate.key)
    if not fresh:
        file.read()
    return file


def _confirm(
    asked: "list[tuple[Candidate, AnswerFile]]", photos: "list[HashedPhoto]", settings: "Settings", *, yes: bool
) -> None:
    """Tell what asking will cost, and ask whether it may; nothing where it costs nothing.

    Raises:
        Exit: it may not, or standard input is no terminal at which an operator could be asked.
    """
    from app.evaluation.cost import expected_micros
    from app.services.spending.prices import MICROS

    currency, total = settings.spending.currency, 0.0
    for candidate, file in asked:
        left = sum(each.sha256 not in file.answers for each in photos)
        if candidate.price is None or left == 0:
            continue
        cost = expected_micros(candidate, file.answers.values(), left) / MICROS
        total += cost
        say(f"{candidate.label}: {left} of {len(photos)} photos are to be asked, about {cost:.4f} {currency}")
    if total == 0 or yes:
        return
    if not sys.stdin.isatty():
        say("Say --yes to have it asked.")
        raise typer.Exit(2)
    typer.confirm(f"Spend about {total:.4f} {currency}?", abort=True, err=True)


def _ask(candidate: "Candidate", file: "AnswerFile", photos: "list[HashedPhoto]", concurrency: int | None) -> int:
    """Have the model asked about what is left, and return how many photos it could not be asked about."""
    from app.evaluation.run import ask

    left = sum(each.sha256 not in file.answers for each in photos)
    if left == 0:
        return 0
    # A model in this process takes a core for a photo: with more at once, each would wait for the others.
    at_once = concurrency or (_DEFAULT_CONCURRENCY if candidate.client.is_paid else 1)
    at_once = min(at_once, candidate.client.settings.max_concurrency)
    with _progress(candidate.label, left) as advance:
        try:
            outcome = asyncio.run(
                ask(
                    candidate,
                    photos,
                    file,
                    concurrency=at_once,
                    on_answer=advance,
                    on_stop=lambda: say("Waiting for the photos under way; Ctrl-C again leaves at once."),
                )
            )
        except KeyboardInterrupt:
            outcome = None
    left = sum(each.sha256 not in file.answers for each in photos)
    if outcome is None or outcome.is_stopped:
        say(f"Stopped; {left} photos were not asked. The same command goes on from here.")
        raise typer.Exit(INTERRUPTED)
    if (problem := outcome.problem) is not None and left:
        say(f"{candidate.label}: {problem.code}: {problem} {problem.advice or ''}".rstrip())
        say(f"{left} photos were not asked. The same command goes on from here.")
    return left


def _judged(
    candidate: "Candidate", file: "AnswerFile", photos: "list[HashedPhoto]", settings: "Settings"
) -> "Judgement":
    from app.evaluation.page import Judgement
    from app.evaluation.report import judge, report

    judged, temperature = judge(candidate, photos, file.answers)
    answers = [file.answers[each.sha256] for each in photos if each.sha256 in file.answers]
    currency = settings.spending.currency
    return Judgement(report(candidate, judged, answers, temperature=temperature, currency=currency), judged)
