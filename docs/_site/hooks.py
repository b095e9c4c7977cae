"""What mkdocs cannot do by itself: pages that lie outside of docs/, links to files that are no pages, and the
roles of docstrings.

All pages are written for the repository, where a link is the path of a file. On the site such a link leads to
the page that was made of that file; a link to code or a folder becomes plain text. Docstrings are written for
Sphinx's roles; on the site :func:`x` becomes the name alone, and of a name with a leading ~ its last part.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:(<code[^>]*>)(~?)([^<]*)(?=</code>)")


def _outside() -> dict[str, str]:
    """The files outside of docs/ that the site has, as paths in the repository, and their places on it."""
    found = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
    for page in sorted((ROOT / "results").rglob("*.md")):
        path = page.relative_to(ROOT)
        inner = path.parent.with_suffix(".md") if page.name == "README.md" else path
        found[str(path)] = "results/index.md" if str(path) == "results/README.md" else str(inner)
    for picture in sorted((ROOT / "results").rglob("*.png")):
        found[str(picture.relative_to(ROOT))] = str(picture.relative_to(ROOT))
    return found


OUTSIDE = _outside()


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside of docs/."""
    for path, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the links of a page into links of the site."""
    here = page.file.src_uri
    source = next((path for path, place in OUTSIDE.items() if place == here), f"docs/{here}")

    def replaced(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, _, part = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = os.path.normpath(os.path.join(os.path.dirname(source), path))
        place = OUTSIDE.get(file, {"README.md": "index.md"}.get(file, file.removeprefix("docs/")))
        if files.get_file_from_path(place) is None:
            return text
        link = os.path.relpath(place, os.path.dirname(here) or ".")
        return f"{picture}[{text}]({link}{'#' + part if part else ''})"

    fenced = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(p if p.startswith("```") else LINK.sub(replaced, p) for p in fenced)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Turn the roles of docstrings into names."""
    return ROLE.sub(lambda role: role[1] + (role[3].rpartition(".")[2] if role[2] else role[3]), html)
