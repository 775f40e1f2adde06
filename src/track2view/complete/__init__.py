"""Completion without training: public video-inpainting weights paint what was never seen, and what was seen stays as it was."""

from track2view.complete.give_back import given_back as given_back
from track2view.complete.vace import CompletionPipeline as CompletionPipeline
from track2view.complete.vace import PublicAdvice as PublicAdvice
