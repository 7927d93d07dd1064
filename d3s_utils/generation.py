"""The dataset: every request dreamt, checked, written and recorded, whatever happens on the way."""

from d3s_utils.dreaming import dream_from_guides, dream_from_text

__all__ = ["dream_from_guides", "dream_from_text"]
