"""`image-classifier train`: a head of the local model from photos of one's own, and whether it is better on them."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from app.cli.output import messages, printable, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from app.clients.local.training.labelled import LabelledPhoto


def train(
    folder: Annotated[
        Path, typer.Argument(help="Photos in folders named after the categories.", exists=True, file_okay=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Where the head is written; left out: in DATA_DIR, by its version."),
    ] = None,
) -> None:
    """Train the head of the local model on labelled photos, and compare it with the one in use.

    Both are measured on photos of sources that the new one was not trained on, and the gain is shown by source. The
    exit status is 1 if it is no better; it is written all the same.
    """
    import numpy as np

    from app.clients.local.head import CATEGORY_ORDER, HEAD_PATH, HeadUnusable, load_head, save_head
    from app.clients.local.network import WeightsMissing, load_networks
    from app.clients.local.training import metrics
    from app.clients.local.training.labelled import find_labelled_photos
    from app.clients.local.training.train import SEEDS
    from app.clients.local.training.train import train as train_head
    from app.config.settings import load_settings
    from app.evaluation.statistics import mcnemar

    if find_spec("sklearn") is None:
        raise _told("Training needs scikit-learn: .venv/bin/python -m pip install --editable '.[train]'")
    settings = load_settings()
    folder_of_output = settings.data_dir if output is None else output.parent
    if not folder_of_output.is_dir():
        raise _told(f"there is no folder {folder_of_output}.")
    in_use_path = settings.model.local_head or HEAD_PATH
    if output is not None and output.resolve() == in_use_path.resolve():
        raise _told(f"{output} is in use: name another file, for a service may read it at any time.")
    try:
        in_use = load_head(in_use_path)
        load_networks()
        found = find_labelled_photos(folder)
    except (HeadUnusable, WeightsMissing, ValueError) as error:
        raise _told(str(error)) from None
    photos, views = _views(found)
    truth = np.array([CATEGORY_ORDER.index(photo.category) for photo in photos])
    sources = [photo.source for photo in photos]
    if len(set(sources)) < 2 or len(set(truth.tolist())) < 2:
        raise _told("Training needs photos of two sources and of two categories at least.")
    trained = train_head(views, truth, sources)
    for penalty, loss in trained.losses.items():
        typer.echo(f"penalty {penalty:g}: log loss {loss:.4f} by source")
    typer.echo(f"\n{len(SEEDS)} cross-validations over {len(set(sources))} sources, penalty {trained.penalty:g}")
    repeated = np.tile(truth, len(SEEDS))
    typer.echo(metrics.report(repeated, trained.probabilities.reshape(-1, len(CATEGORY_ORDER))))
    before, after = in_use.probabilities(views[:, 0]), trained.probabilities.mean(axis=0)
    right_before, right_after = (each.argmax(axis=1) == truth for each in (before, after))
    test = mcnemar(right_before.tolist(), right_after.tolist())
    gain = float((metrics.log_losses(truth, before) - metrics.log_losses(truth, after)).mean())
    typer.echo(f"\n{metrics.summary(f'head in use ({in_use.version})', truth, before)}")
    typer.echo(metrics.summary(f"new head ({trained.head.version})", truth, after))
    typer.echo(f"only one is right: {test.only_first} in use, {test.only_second} new; p = {test.p_value:.4f}")
    typer.echo(f"\n{metrics.by_source([printable(source) for source in sources], right_before, right_after)}")
    output = output or settings.data_dir / f"head-{trained.head.version}.npz"
    save_head(trained.head, output)
    written = printable(str(output))
    typer.echo(f"\nwrote {written} ({output.stat().st_size} bytes); LOCAL_HEAD={written} uses it")
    if gain <= 0:
        say("The new head is no better on sources that it has not seen: keep the one in use.")
        raise typer.Exit(1)


def _views(found: "list[LabelledPhoto]") -> "tuple[list[LabelledPhoto], NDArray[np.float64]]":
    """Return the photos that can be read, and the features of their views; shape (photos, views, features)."""
    import numpy as np

    from app.clients.local.network import load_networks
    from app.clients.local.training.views import view_features
    from app.photo import PhotoError
    from app.runtime.cgroups import available_cores

    def look(photo: "LabelledPhoto") -> "NDArray[np.float32] | None":
        try:
            return view_features(photo, load_networks())
        except (OSError, PhotoError):
            return None

    photos, views = [], []
    with ThreadPoolExecutor(available_cores()) as threads:
        looks = track(threads.map(look, found), "looking", len(found), console=messages)
        for photo, features in zip(found, looks, strict=True):
            if features is None:
                say(f"{photo.path}: not a photo that the service takes")
                continue
            photos.append(photo)
            views.append(features)
    return photos, np.array(views, dtype=np.float64)


def _told(text: str) -> typer.Exit:
    say(text)
    return typer.Exit(2)
