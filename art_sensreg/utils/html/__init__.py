"""The look of all pages, one style sheet and one script: a page is a single file that makes no request."""

from art_sensreg.utils.html.render import render

__all__ = ["render"]
