"""The report as one HTML page in both languages, which loads nothing: pictures are in it, and it holds no script.

Labels, file names and codes come from others; all text is escaped.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from app.categories import CATEGORY_TEXTS, Category
from app.evaluation.report import Comparison, Judged, Report
from app.evaluation.statistics import Share
from app.evaluation.tables import number, worst

MAX_MISTAKES = 24
THUMBNAIL_EDGE = 260
_CURVE_EDGE = 240

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#c0392b;--good:#2471a3}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
td.d{font-weight:700}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:1rem;padding:0}
figure{margin:0;border:1px solid var(--line);border-radius:.5rem;padding:.5rem;overflow-wrap:anywhere}
figure img{width:100%;height:12rem;object-fit:contain}
figcaption{font-size:.9rem}
.note{opacity:.8;font-size:.9rem}
svg text{font-size:10px;fill:currentColor}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One model's report, and the photos that it is made of."""

    report: Report
    judged: Sequence[Judged]


def render(judgements: Sequence[Judgement], comparison: Comparison | None) -> str:
    """Return the page."""
    parts = [_comparison(comparison, judgements)] if comparison is not None else []
    parts += [_model(each) for each in judgements]
    title = "图片分类评测 Evaluation"
    return (
        f'<!doctype html>\n<html lang="zh-CN"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        '<p class="note">此页面包含图片的缩略图，请谨慎分享。'
        " <span lang=en>This page holds small copies of photos: mind to whom you pass it on.</span></p>"
        f"{''.join(parts)}</body></html>\n"
    )


def _comparison(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    test, currency = comparison.test, comparison.currency
    rows = [
        (escape(each.report.model), _interval(share))
        for each, share in zip(judgements, (comparison.first, comparison.second), strict=True)
    ]
    point = "–" if comparison.cost_per_point is None else f"{comparison.cost_per_point:.4f} {currency} / 1000"
    rows += [
        (_both("后者的提升（百分点）", "Gain of the second, points"), f"{comparison.points:+.1f}"),
        (_both("只有一方正确", "Only one is right"), f"{test.only_first} : {test.only_second}"),
        (_both("McNemar 精确检验", "McNemar's exact test"), f"p = {test.p_value:.4f}"),
        (_both("费用差", "Costs more by"), f"{comparison.cost_per_thousand:+.4f} {currency} / 1000"),
        (_both("每提升一个百分点的费用", "A point costs"), point),
    ]
    return f"<h2>{_both('对比', 'Comparison')}</h2>{_pairs(rows)}"


def _model(judgement: Judgement) -> str:
    report = judgement.report
    calibration, spent = report.calibration, report.spent
    rows = [
        (_both("图片", "Photos"), str(report.photos)),
        (_both("准确率（95 % 区间）", "Accuracy (95 % interval)"), _interval(report.accuracy)),
        (_both("平均召回率", "Mean recall"), number(report.mean_recall)),
        *((_both("没有结果", "No answer"), f"{count} {escape(code)}") for code, count in report.errors.items()),
        *(
            (
                _both(f"置信度 ≥ {each.confidence}", f"Confidence ≥ {each.confidence}"),
                f"{number(each.covered.value)}, {_both('正确', 'right')} {_interval(each.right)}",
            )
            for each in calibration.thresholds
        ),
        (_both("校准误差 (ECE)", "Calibration error"), number(calibration.expected_calibration_error)),
        (_both("对数损失", "Log loss"), f"{number(calibration.log_loss)} / {number(calibration.category_log_loss)}"),
        (_both("置信度来源", "Confidence from"), ", ".join(f"{escape(k)} {n}" for k, n in calibration.sources.items())),
        (_both("耗时", "Time"), f"p50 {number(spent.p50_ms, 0)} ms, p95 {number(spent.p95_ms, 0)} ms"),
        (_both("Token 数", "Tokens"), f"{spent.input_tokens} + {spent.output_tokens}"),
        (_both("费用", "Cost"), f"{spent.cost:.4f} {spent.currency} ({number(spent.cost_per_thousand, 4)} / 1000)"),
    ]
    return (
        f"<h2>{escape(report.model)}</h2>{_pairs(rows)}{_categories(report)}{_confusion(report)}"
        f"{_curve(report)}{_mistakes(judgement)}"
    )


def _categories(report: Report) -> str:
    body = "".join(
        f"<tr><td>{_category(key)}</td><td class=n>{each.photos}</td>"
        f"<td class=n>{_interval(each.recall)}</td><td class=n>{_interval(each.precision)}</td></tr>"
        for key, each in report.categories.items()
    )
    heads = (("类别", "Category"), ("图片", "Photos"), ("召回率", "Recall"), ("精确率", "Precision"))
    return f"<h3>{_both('各类别', 'Categories')}</h3><table><tr>{_heads(heads)}</tr>{body}</table>"


def _confusion(report: Report) -> str:
    given = [*report.confusion, ""]
    heads = "".join(f"<th>{_category(key) if key else _both('无', 'none')}</th>" for key in given)
    body = "".join(
        f"<tr><th>{_category(truth)}</th>"
        + "".join(f'<td class="n{" d" if key == truth else ""}">{row[key] or "·"}</td>' for key in given)
        + "</tr>"
        for truth, row in report.confusion.items()
    )
    title = _both("混淆矩阵（行：真实类别；列：回答）", "Confusion (rows: shown, columns: said)")
    return f"<h3>{title}</h3><table><tr><th></th>{heads}</tr>{body}</table>"


def _curve(report: Report) -> str:
    curve = report.calibration.curve
    body = "".join(
        f"<tr><td>{band.low:.1f}–{band.high:.1f}</td><td class=n>{band.right.whole}</td>"
        f"<td class=n>{number(band.confidence)}</td><td class=n>{_interval(band.right)}</td></tr>"
        for band in curve
    )
    heads = (("置信度", "Confidence"), ("图片", "Photos"), ("自称", "Says"), ("实际正确", "Is right"))
    edge = _CURVE_EDGE
    marks = "".join(
        f'<line x1="{edge * band.confidence:.1f}" x2="{edge * band.confidence:.1f}"'
        f' y1="{edge * (1 - (band.right.low or 0)):.1f}" y2="{edge * (1 - (band.right.high or 0)):.1f}"'
        ' stroke="var(--good)"/>'
        f'<circle cx="{edge * band.confidence:.1f}" cy="{edge * (1 - (band.right.value or 0)):.1f}" r="4"'
        ' fill="var(--good)"/>'
        for band in curve
    )
    picture = (
        f'<svg viewBox="-30 -10 {edge + 50} {edge + 40}" width="{edge + 80}" role="img" aria-label="reliability curve">'
        f'<rect width="{edge}" height="{edge}" fill="none" stroke="var(--line)"/>'
        f'<line x1="0" y1="{edge}" x2="{edge}" y2="0" stroke="var(--line)" stroke-dasharray="4"/>{marks}'
        f'<text x="0" y="{edge + 15}">0</text><text x="{edge - 6}" y="{edge + 15}">1</text>'
        f'<text x="{edge / 2 - 40}" y="{edge + 15}">置信度 confidence</text><text x="-22" y="10">1</text></svg>'
    )
    return f"<h3>{_both('校准', 'Calibration')}</h3>{picture}<table><tr>{_heads(heads)}</tr>{body}</table>"


def _mistakes(judgement: Judgement) -> str:
    figures = "".join(map(_figure, worst(judgement.judged, MAX_MISTAKES)))
    if not figures:
        return ""
    return f"<h3>{_both('最严重的错误', 'The worst mistakes')}</h3><div class=pictures>{figures}</div>"


def _figure(each: Judged) -> str:
    source = _thumbnail(each.path)
    name = escape(f"{each.path.parent.name}/{each.path.name}".encode(errors="replace").decode())
    picture = f'<img src="{source}" alt="">' if source else ""
    return (
        f"<figure>{picture}<figcaption>{name}<br>{_category(each.truth)} → "
        f"<b>{_category(each.category or '')}</b> {each.confidence:.2f}</figcaption></figure>"
    )


def _thumbnail(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * THUMBNAIL_EDGE, 2 * THUMBNAIL_EDGE))
            small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=70, comment=b"")
    except Exception:  # noqa: BLE001 - Pillow raises anything on hostile bytes
        return None
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _category(key: str) -> str:
    text = CATEGORY_TEXTS.get(Category(key)) if key in set(Category) else None
    return "" if text is None else _both(text.chinese, text.english)


def _both(chinese: str, english: str) -> str:
    return f"{escape(chinese)} <span lang=en>{escape(english)}</span>"


def _interval(share: Share) -> str:
    return "–" if share.value is None else f"{share.value:.3f} ({share.low:.3f}–{share.high:.3f})"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows) + "</table>"


def _heads(names: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<th>{_both(*each)}</th>" for each in names)
