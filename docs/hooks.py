"""What mkdocs calls while it builds the site: adds the pages that are written from registries and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from method_pages import FAMILY_TITLES, INDEX, page_name, pages, recorded
from mkdocs.structure.files import File, Files
from verdicts import page as verdicts_page
from verdicts import read_studies

from modelmoat.leaderboard import write_leaderboard
from modelmoat.leaderboard.methods import family_pages


def on_config(config: Any) -> Any:
    """Put a page for every method under "Methods"."""
    sections = [
        {title: [page_name(method) for method in family_pages(family)]} for family, title in FAMILY_TITLES.items()
    ]
    for entry in config.nav:
        if entry.get("Methods") == INDEX:
            entry["Methods"] = [INDEX, *sections]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are in no file."""
    results = _results(config)
    written = {**pages(results), "verdicts.md": verdicts_page(read_studies(results), ranked=bool(recorded(results)))}
    for name, text in written.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_build(config: Any) -> None:
    """Write the leaderboard of all studies beside the pages, where there are records."""
    folders = recorded(_results(config))
    if folders:
        write_leaderboard(folders, Path(config.site_dir) / "leaderboard")


def _results(config: Any) -> Path:
    """Results lie beside mkdocs.yml."""
    return Path(config.config_file_path).parent / "results"
