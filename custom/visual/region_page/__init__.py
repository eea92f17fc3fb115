# SPDX-License-Identifier: Apache-2.0
"""A page for the browser that shows the region maps of a dataset: one file, no network."""

from custom.visual.region_page.cards import EvenSample, Pictures, make_pictures
from custom.visual.region_page.page import render_page

__all__ = ["EvenSample", "Pictures", "make_pictures", "render_page"]
