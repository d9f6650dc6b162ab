"""Renderings for people: tables, trees and short lines.

What is shown knows nothing of how: ``fxfeat/ir/shown.py`` asks this package for the rendering of each class.
"""

from fxfeat.report.render import describe, render

__all__ = ["describe", "render"]
